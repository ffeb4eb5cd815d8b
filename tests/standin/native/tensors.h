// What the kernels share: reading and writing tensors of any type and layout, and the two stages of an aclnn operator.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <immintrin.h>
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

// What stage 1 of an operator leaves for stage 2: the launch.
struct Executor {
  int magic, stub, nargs;
  uint64_t args[64];
  const char *name;
  std::function<void()> run;
  std::string text;
};

// ---- reading and writing tensors ----
static size_t esize(int d) {
  switch (d) {
  case F32:
  case I32:
    return 4;
  case F16:
  case I16:
  case BF16:
    return 2;
  case I64:
  case F64:
    return 8;
  default:
    return 1;
  }
}
static Dims dims(const T *t) { return Dims(t->dims, t->dims + t->ndim); }
static int64_t count(const Dims &d) {
  int64_t n = 1;
  for (auto x : d) n *= x;
  return n;
}
static float h2f(uint16_t h) { return _cvtsh_ss(h); }
static uint16_t f2h(float f) { return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT); }
static float b2f(uint16_t b) {
  uint32_t u = uint32_t(b) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static uint16_t f2b(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  u += 0x7fff + ((u >> 16) & 1);
  return u >> 16;
}
template <class V> static V get(const char *p, int d) {
  switch (d) {
  case F32:
    return V(*(const float *)p);
  case F16:
    return V(h2f(*(const uint16_t *)p));
  case BF16:
    return V(b2f(*(const uint16_t *)p));
  case I32:
    return V(*(const int32_t *)p);
  case I64:
    return V(*(const int64_t *)p);
  case F64:
    return V(*(const double *)p);
  case I16:
    return V(*(const int16_t *)p);
  case I8:
    return V(*(const int8_t *)p);
  case BOOL:
    return V(*p != 0);
  default:
    return V(*(const uint8_t *)p);
  }
}
template <class V> static void put(char *p, int d, V v) {
  switch (d) {
  case F32:
    *(float *)p = float(v);
    break;
  case F16:
    *(uint16_t *)p = f2h(float(v));
    break;
  case BF16:
    *(uint16_t *)p = f2b(float(v));
    break;
  case I32:
    *(int32_t *)p = int32_t(v);
    break;
  case I64:
    *(int64_t *)p = int64_t(v);
    break;
  case F64:
    *(double *)p = double(v);
    break;
  case I16:
    *(int16_t *)p = int16_t(v);
    break;
  case I8:
    *(int8_t *)p = int8_t(v);
    break;
  case BOOL:
    *p = v != V(0);
    break;
  default:
    *(uint8_t *)p = uint8_t(v);
  }
}
template <class Fn> static void walk(const T *t, Fn fn) { // fn(linear index, address)
  size_t es = esize(t->dtype);
  char *base = (char *)t->data + t->off * es;
  int n = t->ndim;
  int64_t total = count(dims(t));
  if (!total) return;
  bool flat = true;
  int64_t want = 1;
  for (int i = n - 1; i >= 0; i--) {
    if (t->dims[i] != 1 && t->strides[i] != want) flat = false;
    want *= t->dims[i];
  }
  if (flat) {
    for (int64_t i = 0; i < total; i++) fn(i, base + i * es);
    return;
  }
  int64_t ix[16] = {0}, at = 0;
  for (int64_t i = 0; i < total; i++) {
    fn(i, base + at * (int64_t)es);
    for (int k = n - 1; k >= 0; k--) {
      at += t->strides[k];
      if (++ix[k] < t->dims[k]) break;
      at -= t->strides[k] * t->dims[k];
      ix[k] = 0;
    }
  }
}
template <class V> static std::vector<V> load(const T *t) {
  std::vector<V> v(count(dims(t)));
  int d = t->dtype;
  walk(t, [&](int64_t i, char *p) { v[i] = get<V>(p, d); });
  return v;
}
template <class V> static void store(T *t, const std::vector<V> &v) {
  int d = t->dtype;
  walk(t, [&](int64_t i, char *p) { put<V>(p, d, v[i]); });
}
static double num(const scalar *s) { return get<double>(s->val, s->dtype); }
static Dims ints(const seq *s) {
  Dims d;
  if (s)
    for (uint64_t i = 0; i < s->n; i++) d.push_back(((const int64_t *)s->data)[i]);
  return d;
}
static T *item(const seq *s, int i) { return ((T **)s->data)[i]; }

// A view broadcast to `to`.
static T spread(const T *t, const Dims &to) {
  T v = *t;
  int pad = int(to.size()) - int(t->ndim);
  for (size_t i = 0; i < to.size(); i++) {
    int k = int(i) - pad;
    v.dims[i] = to[i];
    v.strides[i] = k < 0 || t->dims[k] == 1 ? 0 : t->strides[k];
  }
  v.ndim = to.size();
  return v;
}

// A part of one dimension, as a view.
static T part(const T *t, int dim, int64_t from, int64_t n) {
  T v = *t;
  v.off += from * t->strides[dim];
  v.dims[dim] = n;
  return v;
}

static bool integral(const T *t) {
  int d = t->dtype;
  return !(d == F32 || d == F16 || d == BF16 || d == F64);
}
template <class Fn> static void binary(const T *a, const T *b, T *o, Fn fn) {
  T x = spread(a, dims(o)), y = spread(b, dims(o));
  auto go = [&](auto zero) {
    typedef decltype(zero) V;
    auto u = load<V>(&x), v = load<V>(&y);
    for (size_t i = 0; i < u.size(); i++) u[i] = V(fn(u[i], v[i]));
    store(o, u);
  };
  if (integral(a) && integral(b) && integral(o))
    go(int64_t());
  else if (a->dtype == F64 || b->dtype == F64)
    go(double());
  else
    go(float());
}
template <class Fn> static void unary(const T *a, T *o, Fn fn) {
  T x = spread(a, dims(o));
  auto u = load<float>(&x);
  for (auto &v : u) v = fn(v);
  store(o, u);
}

template <class Fn> static std::vector<double> reduce(const T *a, Dims ax, double zero, Fn fn) {
  int n = a->ndim;
  std::vector<bool> cut(n, ax.empty());
  for (auto x : ax)
    if (n) cut[x < 0 ? x + n : x] = true; // a scalar may be reduced over its one element
  Dims od;
  for (int i = 0; i < n; i++)
    if (!cut[i]) od.push_back(a->dims[i]);
  std::vector<double> r(count(od), zero);
  auto u = load<double>(a);
  for (size_t i = 0; i < u.size(); i++) {
    int64_t rest = i, at = 0, m = 1;
    for (int k = n - 1; k >= 0; k--) {
      int64_t x = rest % a->dims[k];
      rest /= a->dims[k];
      if (!cut[k]) {
        at += x * m;
        m *= a->dims[k];
      }
    }
    r[at] = fn(r[at], u[i]);
  }
  return r;
}

static void gemm(const float *a, const float *b, float *c, int64_t m, int64_t k, int64_t n) {
  memset(c, 0, 4 * m * n);
  for (int64_t i = 0; i < m; i++)
    for (int64_t q = 0; q < k; q++) {
      float x = a[i * k + q];
      const float *bb = b + q * n;
      float *cc = c + i * n;
      for (int64_t j = 0; j < n; j++) cc[j] += x * bb[j];
    }
}

// ---- planning and launching ----
// Stage 1 checks the arguments against limits.py and keeps the launch; stage 2 runs it.
long plan(const char *name, uint64_t *workspace_bytes, Executor **executor, std::initializer_list<const T *> in,
          std::initializer_list<const T *> out, std::function<void()> run);
long launch(const char *name, Executor *executor);
std::string show(const T *t);
const char *type_name(int dtype);

#define PLAN uint64_t *workspace_bytes, Executor **executor
#define IN(...) {__VA_ARGS__}
#define OUT(...) {__VA_ARGS__}
#define KERNEL(name, params, in, out, ...)                                                                             \
  extern "C" long name(void *, uint64_t, Executor *executor, void *) { return launch(#name, executor); }               \
  extern "C" long name##GetWorkspaceSize params {                                                                      \
    return plan(#name, workspace_bytes, executor, in, out, [=]() __VA_ARGS__);                                         \
  }
