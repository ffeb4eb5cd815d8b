// What the kernels share: reading and writing tensors of any type and layout, and the two stages of an aclnn operator.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

extern "C" {
#include "runtime.h"
}

typedef tensor T;
typedef std::vector<int64_t> Dims;
enum { F32 = 0, F16 = 1, I8 = 2, I32 = 3, U8 = 4, I16 = 6, I64 = 9, F64 = 11, BOOL = 12, BF16 = 27 };

// ---- reading and writing tensors (tensors.cc) ----
size_t element_bytes(int dtype);
Dims dims(const T *t);
int64_t count(const Dims &dims); // how many elements
bool integral(const T *t);       // an integer type, or bool
// The elements in order, whatever the tensor's type and strides. V is float, double or int64_t.
template <class V> std::vector<V> load(const T *t);
template <class V> void store(T *t, const std::vector<V> &elements);
// One element of a dense array of a type.
double read(const void *element, int dtype);

inline double num(const scalar *s) { return read(s->val, s->dtype); }
Dims ints(const seq *s);
inline T *item(const seq *s, int i) { return ((T **)s->data)[i]; }
inline int axis_from(int64_t axis, const T *t) { return axis < 0 ? axis + t->ndim : axis; }

T spread(const T *t, const Dims &to);                      // a view broadcast to `to`
T part(const T *t, int axis, int64_t from, int64_t count); // a part of one dimension, as a view
T lift(const scalar *s);                                   // a scalar as a tensor without dimensions

// o = fn(a, b) with broadcasting: in int64 where all are integers, in double where one is float64, else in float.
template <class Fn> void binary(const T *a, const T *b, T *o, Fn fn) {
  T x = spread(a, dims(o)), y = spread(b, dims(o));
  auto compute = [&](auto zero) {
    typedef decltype(zero) V;
    auto left = load<V>(&x), right = load<V>(&y);
    for (size_t i = 0; i < left.size(); i++) left[i] = V(fn(left[i], right[i]));
    store(o, left);
  };
  if (integral(a) && integral(b) && integral(o))
    compute(int64_t());
  else if (a->dtype == F64 || b->dtype == F64)
    compute(double());
  else
    compute(float());
}

// o = fn(a): in double for float64, else in float.
template <class Fn> void unary(const T *a, T *o, Fn fn) {
  auto compute = [&](auto zero) {
    auto elements = load<decltype(zero)>(a);
    for (auto &x : elements) x = fn(x);
    store(o, elements);
  };
  if (a->dtype == F64)
    compute(double());
  else
    compute(float());
}

// Folds the axes of `a`, all where none are named, by result = fn(result, element) from `start`.
std::vector<double> reduce(const T *a, Dims axes, double start, double (*fn)(double, double));

// c = a b, of shapes (m, k) and (k, n); adds to c where `add`. All are dense.
void gemm(const float *a, const float *b, float *c, int64_t m, int64_t k, int64_t n, bool add = false);
// The transpose of a dense (rows, columns) array.
void transpose(const float *from, float *to, int64_t rows, int64_t columns);

// ---- planning and launching (plan.cc) ----
// Thrown by a kernel for values that CANN forbids, and for arguments that CANN takes and the stand-in does not.
struct NotProvided {
  std::string text;
};
inline void check_index(int64_t index, int64_t size) {
  if (index < 0 || index >= size)
    throw NotProvided{"index " + std::to_string(index) + " is outside a dimension of " + std::to_string(size)};
}

// What stage 1 of an operator leaves for stage 2: the launch.
struct Executor {
  int magic;
  bool repeatable;
  std::function<void()> run;
  std::string text; // types and shapes, for the trace
};
// Stage 1 checks the arguments against limits.py and keeps the launch; stage 2 runs it.
// `fault` is what a check of the kernel's own found, or "".
long plan(const char *name, uint64_t *workspace_bytes, Executor **executor, std::initializer_list<const T *> in,
          std::initializer_list<const T *> out, std::function<void()> run, const std::string &fault = "");
long launch(const char *name, Executor *executor);
// What limits.py does not allow among an operator's tensors, or "". Tensors that were not given are null.
std::string outside_limits(const char *name, const std::vector<const T *> &tensors);
// Keeps and prints why a call is refused.
void refuse(const char *name, const std::string &arguments, const std::string &why);
std::string show(const T *t); // type and shape
const char *type_name(int dtype);
bool list_kernel(const char *name); // for standin_kernels()

#define PLAN uint64_t *workspace_bytes, Executor **executor
#define IN(...) {__VA_ARGS__}
#define OUT(...) {__VA_ARGS__}
// An operator: its parameters, the tensors that limits.py names, and the body that computes. These macros do not use
// one another, because IN and OUT would fall apart at their commas.
#define KERNEL(name, params, in, out, ...)                                                                             \
  LAUNCH(name) extern "C" long name##GetWorkspaceSize params {                                                         \
    return plan(#name, workspace_bytes, executor, in, out, [=]() __VA_ARGS__);                                         \
  }
// With `check`, an expression over the parameters: what the documentation forbids beyond types and ranks, or "".
#define CHECKED_KERNEL(name, params, in, out, check, ...)                                                              \
  LAUNCH(name) extern "C" long name##GetWorkspaceSize params {                                                         \
    return plan(#name, workspace_bytes, executor, in, out, [=]() __VA_ARGS__, check);                                  \
  }
// And with a copy of a text for the body: the launch comes after the call, when the caller's may be gone.
#define CHECKED_KERNEL_WITH_TEXT(name, params, in, out, check, copy, text, ...)                                        \
  LAUNCH(name) extern "C" long name##GetWorkspaceSize params {                                                         \
    return plan(#name, workspace_bytes, executor, in, out, [ =, copy = std::string(text) ]() __VA_ARGS__, check);      \
  }
#define LAUNCH(name)                                                                                                   \
  static const bool name##_listed = list_kernel(#name);                                                                \
  extern "C" long name(void *, uint64_t, Executor *executor, void *) { return launch(#name, executor); }
