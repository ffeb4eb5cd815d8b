// The two stages of an operator, and the check of its arguments against limits.py.
#include "tensors.h"

// One tensor of an operator: the types that it takes, as bits, and its largest number of dimensions.
struct TensorLimit {
  const char *name;
  uint32_t types;
  int max_rank;
};
struct OperatorLimit {
  std::vector<TensorLimit> tensors; // inputs, then outputs
  const char *source;               // the page of CANN's documentation; "" where none was found
};
static const std::map<std::string, OperatorLimit> LIMITS = {
#include "limits.inc"
};


const char *type_name(int dtype) {
  static const std::map<int, const char *> names{{F32, "float32"},   {F16, "float16"}, {BF16, "bfloat16"}, {I32, "int32"},
                                                 {I64, "int64"},     {F64, "float64"}, {BOOL, "bool"},     {U8, "uint8"},
                                                 {I8, "int8"},       {I16, "int16"}};
  auto found = names.find(dtype);
  return found == names.end() ? "?" : found->second;
}

std::string show(const T *t) {
  if (!t) return " -";
  std::string text = std::string(" ") + type_name(t->dtype) + "[";
  for (uint64_t i = 0; i < t->ndim; i++) text += (i ? "x" : "") + std::to_string(t->dims[i]);
  return text + "]";
}

// What an operator's documentation does not allow among its tensors, or "".
static std::string fault(const char *name, const std::vector<const T *> &tensors) {
  auto found = LIMITS.find(name);
  if (found == LIMITS.end()) return "limits.py has no entry for it";
  const OperatorLimit &limit = found->second;
  if (tensors.size() != limit.tensors.size()) return "limits.py names another number of tensors";
  for (size_t i = 0; i < tensors.size(); i++) {
    const T *t = tensors[i];
    const TensorLimit &allowed = limit.tensors[i];
    if (!t) continue;
    if (!(allowed.types >> t->dtype & 1)) return std::string(allowed.name) + " is" + show(t) + ", a type that it does not take";
    if (int(t->ndim) > allowed.max_rank)
      return std::string(allowed.name) + " is" + show(t) + ", of more than " + std::to_string(allowed.max_rank) + " dimensions";
  }
  return "";
}

long plan(const char *name, uint64_t *workspace_bytes, Executor **executor, std::initializer_list<const T *> in,
          std::initializer_list<const T *> out, std::function<void()> run) {
  std::string text;
  std::vector<const T *> tensors;
  for (auto t : in) text += show(t), tensors.push_back(t);
  text += " ->";
  for (auto t : out) text += show(t), tensors.push_back(t);
  std::string wrong = fault(name, tensors);
  if (!wrong.empty()) {
    auto found = LIMITS.find(name);
    std::string message = std::string(name) + text + ": " + wrong;
    if (found != LIMITS.end() && *found->second.source) message += std::string(" (") + found->second.source + ")";
    stub_error(message.c_str());
    fprintf(stderr, "[stand-in] %s\n", message.c_str());
    return 161002; // ACLNN_ERR_PARAM_INVALID
  }
  Executor *made = new Executor();
  made->magic = EXECUTOR;
  made->name = name;
  made->run = std::move(run);
  made->text = text;
  *workspace_bytes = 0;
  *executor = made;
  stub_trace("plan", name, text.c_str());
  return 0;
}

long launch(const char *name, Executor *executor) {
  stub_trace("launch", name, executor->text.c_str());
  executor->run();
  return 0;
}
