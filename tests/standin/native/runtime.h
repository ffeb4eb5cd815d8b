// Handles that MindSpore holds, and the functions that the generated libraries call.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { TENSOR = 0x7e5a0001, SCALAR, INTS, FLOATS, BOOLS, TENSORS, SCALARS, EXECUTOR }; // kinds of handle

// aclTensor. Offset and strides are in elements.
struct tensor {
  int magic, dtype, fmt;
  uint64_t ndim, sndim;
  int64_t off, dims[16], strides[16], sdims[16];
  void *data;
};
// aclScalar
struct scalar {
  int magic, dtype;
  char val[16];
};
// aclIntArray, aclFloatArray, aclBoolArray, aclTensorList, aclScalarList
struct seq {
  int magic;
  uint64_t n;
  char data[];
};

// A function of CANN that is only counted.
struct stub_entry {
  const char *name;
  long calls;
};
long stub_hit(int index), stub_abort(int index);
long stub_no_kernel(int index);

void stub_trace(const char *kind, const char *name, const char *arguments);
void stub_error(const char *message); // what aclGetRecentErrMsg gives back
const char *aclrtGetSocName(void);
int stub_computes(void); // 0 with STANDIN_COMPUTE=0: memory is counted, nothing computed or copied
