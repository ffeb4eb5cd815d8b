// aclopCompileAndExecuteV2 and the handles that it takes.
#include "aclop.h"

struct TensorDesc {
  T tensor;
  std::vector<char> constant; // the tensor's value where it is known before the launch
};
struct DataBuffer {
  void *address;
  size_t bytes;
};

static std::map<std::string, AclopKernel> &kernels() {
  static std::map<std::string, AclopKernel> all;
  return all;
}
bool list_aclop(const char *name, AclopKernel kernel) {
  kernels()[name] = kernel;
  list_kernel(name);
  return true;
}

// The tensor of a description and a buffer; without both it stays empty.
static T tensor_of(const TensorDesc *desc, const DataBuffer *buffer) {
  T tensor;
  memset(&tensor, 0, sizeof tensor);
  if (!desc) return tensor;
  tensor = desc->tensor;
  tensor.data = !desc->constant.empty() ? (void *)desc->constant.data() : buffer ? buffer->address : nullptr;
  return tensor;
}

extern "C" {
TensorDesc *aclCreateTensorDesc(int dtype, int rank, const int64_t *dims, int format) {
  TensorDesc *desc = new TensorDesc();
  memset(&desc->tensor, 0, sizeof desc->tensor);
  T &tensor = desc->tensor;
  tensor.magic = TENSOR;
  tensor.dtype = dtype;
  tensor.fmt = format;
  tensor.ndim = rank;
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; i--) {
    tensor.dims[i] = dims[i];
    tensor.strides[i] = stride;
    stride *= dims[i];
  }
  return desc;
}
void aclDestroyTensorDesc(TensorDesc *desc) { delete desc; }
int aclSetTensorConst(TensorDesc *desc, void *value, size_t bytes) {
  desc->constant.assign((char *)value, (char *)value + bytes);
  return 0;
}

DataBuffer *aclCreateDataBuffer(void *address, size_t bytes) { return new DataBuffer{address, bytes}; }
int aclDestroyDataBuffer(DataBuffer *buffer) {
  delete buffer;
  return 0;
}
int aclUpdateDataBuffer(DataBuffer *buffer, void *address, size_t bytes) {
  *buffer = {address, bytes};
  return 0;
}
void *aclGetDataBufferAddr(DataBuffer *buffer) { return buffer->address; }

Attributes *aclopCreateAttr() { return new Attributes(); }
void aclopDestroyAttr(Attributes *attributes) { delete attributes; }
int aclopSetAttrInt(Attributes *attributes, const char *name, int64_t value) {
  (*attributes)[name] = {double(value)};
  return 0;
}
int aclopSetAttrBool(Attributes *attributes, const char *name, uint8_t value) {
  (*attributes)[name] = {double(value)};
  return 0;
}
int aclopSetAttrFloat(Attributes *attributes, const char *name, float value) {
  (*attributes)[name] = {value};
  return 0;
}
int aclopSetAttrListInt(Attributes *attributes, const char *name, int n, const int64_t *values) {
  (*attributes)[name] = std::vector<double>(values, values + n);
  return 0;
}

int aclopCompileAndExecuteV2(const char *name, int n_inputs, TensorDesc *input_descs[], DataBuffer *input_buffers[],
                             int n_outputs, TensorDesc *output_descs[], DataBuffer *output_buffers[],
                             Attributes *attributes, int, int, const char *, void *) {
  static const Attributes none;
  AclopCall call{{}, {}, attributes ? *attributes : none};
  for (int i = 0; i < n_inputs; i++) call.inputs.push_back(tensor_of(input_descs[i], input_buffers[i]));
  for (int i = 0; i < n_outputs; i++)
    call.outputs.push_back(output_buffers[i] ? tensor_of(output_descs[i], output_buffers[i]) : tensor_of(0, 0));
  std::vector<const T *> tensors;
  std::string text;
  auto add = [&](const T &tensor) {
    const T *given = tensor.magic == TENSOR ? &tensor : nullptr;
    tensors.push_back(given);
    text += given ? show(given) : " null";
  };
  for (auto &tensor : call.inputs) add(tensor);
  text += " ->";
  for (auto &tensor : call.outputs) add(tensor);
  for (auto &one : call.attributes)
    text += " " + one.first + "=" + (one.second.empty() ? "" : std::to_string((long)one.second[0]));
  stub_trace("aclop", name, text.c_str());

  auto kernel = kernels().find(name);
  if (kernel == kernels().end()) {
    refuse(name, text, "the stand-in has no such aclop; it belongs in tests/standin/native/kernels/aclop.cc");
    return 100000; // ACL_ERROR_INVALID_PARAM
  }
  std::string fault = outside_limits(name, tensors);
  if (!fault.empty()) {
    refuse(name, text, fault);
    return 100000;
  }
  if (!stub_computes()) return 0;
  try {
    kernel->second(call);
  } catch (const NotProvided &what) {
    refuse(name, text, what.text);
    return 100000;
  }
  return 0;
}
int aclopCompileAndExecute(const char *name, int n_inputs, TensorDesc *input_descs[], DataBuffer *input_buffers[],
                           int n_outputs, TensorDesc *output_descs[], DataBuffer *output_buffers[],
                           Attributes *attributes, int engine, int compile, const char *path, void *stream) {
  return aclopCompileAndExecuteV2(name, n_inputs, input_descs, input_buffers, n_outputs, output_descs, output_buffers,
                                  attributes, engine, compile, path, stream);
}
}
