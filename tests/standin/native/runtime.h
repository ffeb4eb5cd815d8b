// Handles that MindSpore holds, and the functions that the generated libraries call.
#pragma once
#include <stddef.h>
#include <stdint.h>
enum { TENSOR = 0x7e5a0001, SCALAR, INTS, FLOATS, BOOLS, TENSORS, SCALARS, EXECUTOR };
struct tensor {
  int magic, dtype, fmt;
  uint64_t ndim, sndim;
  int64_t off, dims[16], strides[16], sdims[16];
  void *data;
};
struct scalar {
  int magic, dtype;
  char val[16];
};
struct seq {
  int magic;
  uint64_t n;
  char data[];
};
struct stub_entry {
  const char *name;
  long calls;
};
long stub_hit(int), stub_abort(int);
long stub_no_kernel(int);
void stub_trace(const char *kind, const char *name, const char *more);
void stub_error(const char *message);
