// Elementwise operators.
#include "../tensors.h"

KERNEL(aclnnMul, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o),
       { binary(a, b, o, [](auto x, auto y) { return x * y; }); })
KERNEL(aclnnDiv, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o),
       { binary(a, b, o, [](auto x, auto y) { return x / y; }); })
KERNEL(aclnnMinimum, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o),
       { binary(a, b, o, [](auto x, auto y) { return x < y ? x : y; }); })
KERNEL(aclnnMaximum, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o),
       { binary(a, b, o, [](auto x, auto y) { return x > y ? x : y; }); })
KERNEL(aclnnAdd, (const T *a, const T *b, const scalar *k, T *o, PLAN), IN(a, b), OUT(o), {
  double c = num(k);
  binary(a, b, o, [c](auto x, auto y) { return x + decltype(x)(c) * y; });
})
KERNEL(aclnnSub, (const T *a, const T *b, const scalar *k, T *o, PLAN), IN(a, b), OUT(o), {
  double c = num(k);
  binary(a, b, o, [c](auto x, auto y) { return x - decltype(x)(c) * y; });
})
static T lift(const scalar *s) {
  T t;
  memset(&t, 0, sizeof t);
  t.magic = TENSOR;
  t.dtype = s->dtype;
  t.data = (void *)s->val;
  return t;
}
KERNEL(aclnnAdds, (const T *a, const scalar *b, const scalar *k, T *o, PLAN), IN(a), OUT(o), {
  T y = lift(b);
  double c = num(k);
  binary(a, &y, o, [c](auto x, auto y) { return x + decltype(x)(c) * y; });
})
KERNEL(aclnnSubs, (const T *a, const scalar *b, const scalar *k, T *o, PLAN), IN(a), OUT(o), {
  T y = lift(b);
  double c = num(k);
  binary(a, &y, o, [c](auto x, auto y) { return x - decltype(x)(c) * y; });
})
KERNEL(aclnnMuls, (const T *a, const scalar *b, T *o, PLAN), IN(a), OUT(o), {
  T y = lift(b);
  binary(a, &y, o, [](auto x, auto y) { return x * y; });
})
KERNEL(aclnnDivs, (const T *a, const scalar *b, T *o, PLAN), IN(a), OUT(o), {
  T y = lift(b);
  binary(a, &y, o, [](auto x, auto y) { return x / y; });
})
KERNEL(aclnnPowTensorScalar, (const T *a, const scalar *b, T *o, PLAN), IN(a), OUT(o), {
  T y = lift(b);
  binary(a, &y, o, [](auto x, auto y) { return std::pow(x, y); });
})
KERNEL(aclnnPowTensorTensor, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o),
       { binary(a, b, o, [](auto x, auto y) { return std::pow(x, y); }); })
#define CMP(N, OP)                                                                                                     \
  KERNEL(aclnn##N##Scalar, (const T *a, const scalar *b, T *o, PLAN), IN(a), OUT(o), {                                 \
    T y = lift(b);                                                                                                     \
    T x = spread(a, dims(o));                                                                                          \
    auto u = load<double>(&x);                                                                                         \
    double c = num(b);                                                                                                 \
    for (auto &v : u) v = v OP c;                                                                                      \
    store(o, u);                                                                                                       \
  })                                                                                                                   \
  KERNEL(aclnn##N##Tensor, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o), {                                   \
    T x = spread(a, dims(o)), y = spread(b, dims(o));                                                                  \
    auto u = load<double>(&x), w = load<double>(&y);                                                                   \
    for (size_t i = 0; i < u.size(); i++) u[i] = u[i] OP w[i];                                                         \
    store(o, u);                                                                                                       \
  })
CMP(Lt, <)
CMP(Le, <=) CMP(Gt, >) CMP(Ge, >=) CMP(Eq, ==) CMP(Ne, !=)
    KERNEL(aclnnLogicalAnd, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o), {
      T x = spread(a, dims(o)), y = spread(b, dims(o));
      auto u = load<double>(&x), w = load<double>(&y);
      for (size_t i = 0; i < u.size(); i++) u[i] = u[i] && w[i];
      store(o, u);
    }) KERNEL(aclnnLogicalOr, (const T *a, const T *b, T *o, PLAN), IN(a, b), OUT(o), {
      T x = spread(a, dims(o)), y = spread(b, dims(o));
      auto u = load<double>(&x), w = load<double>(&y);
      for (size_t i = 0; i < u.size(); i++) u[i] = u[i] || w[i];
      store(o, u);
    }) KERNEL(aclnnLogicalNot, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      auto u = load<double>(a);
      for (auto &v : u) v = !v;
      store(o, u);
    }) KERNEL(aclnnSqrt, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::sqrt(x); });
    }) KERNEL(aclnnRsqrt, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return 1 / std::sqrt(x); });
    }) KERNEL(aclnnSin, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::sin(x); });
    }) KERNEL(aclnnCos, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::cos(x); });
    }) KERNEL(aclnnExp, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::exp(x); });
    }) KERNEL(aclnnLog, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::log(x); });
    }) KERNEL(aclnnTanh, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::tanh(x); });
    }) KERNEL(aclnnAbs, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return std::fabs(x); });
    }) KERNEL(aclnnSign, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      auto u = load<double>(a);
      for (auto &v : u) v = (v > 0) - (v < 0);
      store(o, u);
    }) KERNEL(aclnnNeg, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      auto u = load<double>(a);
      for (auto &v : u) v = -v;
      store(o, u);
    }) KERNEL(aclnnReciprocal, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return 1 / x; });
    }) KERNEL(aclnnSigmoid, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return 1 / (1 + std::exp(-x)); });
    }) KERNEL(aclnnSilu, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      unary(a, o, [](float x) { return x / (1 + std::exp(-x)); });
    }) KERNEL(aclnnSiluBackward, (const T *g, const T *a, T *o, PLAN), IN(g, a), OUT(o), {
      binary(g, a, o, [](auto d, auto x) {
        auto s = 1 / (1 + std::exp(-float(x)));
        return d * s * (1 + x * (1 - s));
      });
    }) KERNEL(aclnnIsFinite, (const T *a, T *o, PLAN), IN(a), OUT(o), {
      auto u = load<float>(a);
      for (auto &v : u) {
        uint32_t q;
        memcpy(&q, &v, 4);
        v = (q & 0x7f800000) != 0x7f800000;
      }
      store(o, u);
    }) KERNEL(aclnnCast, (const T *a, int d, T *o, PLAN), IN(a), OUT(o), {
      if (a->dtype == I64 && o->dtype == I64) {
        store(o, load<int64_t>(a));
      } else {
        store(o, load<double>(a));
      }
    }) KERNEL(aclnnSWhere, (const T *c, const T *a, const T *b, T *o, PLAN), IN(c, a, b), OUT(o), {
      T k = spread(c, dims(o)), x = spread(a, dims(o)), y = spread(b, dims(o));
      auto q = load<float>(&k);
      auto u = load<double>(&x), w = load<double>(&y);
      for (size_t i = 0; i < u.size(); i++)
        if (!q[i]) u[i] = w[i];
      store(o, u);
    }) KERNEL(aclnnClamp, (const T *a, const scalar *lo, const scalar *hi, T *o, PLAN), IN(a), OUT(o), {
      auto u = load<double>(a);
      for (auto &v : u) {
        if (lo && v < num(lo)) v = num(lo);
        if (hi && v > num(hi)) v = num(hi);
      }
      store(o, u);
    }) KERNEL(aclnnInplaceCopy, (T * a, const T *b, PLAN), IN(a, b), OUT(a), {
      T y = spread(b, dims(a));
      store(a, load<double>(&y));
    }) KERNEL(aclnnInplaceZero, (T * a, PLAN), IN(a), OUT(a), {
      store(a, std::vector<float>(count(dims(a)), 0.f));
    }) KERNEL(aclnnInplaceOne, (T * a, PLAN), IN(a), OUT(a), {
      store(a, std::vector<float>(count(dims(a)), 1.f));
    }) KERNEL(aclnnInplaceFillScalar, (T * a, const scalar *s, PLAN), IN(a), OUT(a), {
      store(a, std::vector<double>(count(dims(a)), num(s)));
    }) KERNEL(aclnnInplaceMul, (T * a, const T *b, PLAN), IN(a, b), OUT(a), {
      binary(a, b, a, [](auto x, auto y) { return x * y; });
    }) KERNEL(aclnnInplaceAdd, (T * a, const T *b, const scalar *k, PLAN), IN(a, b), OUT(a), {
      double c = num(k);
      binary(a, b, a, [c](auto x, auto y) { return x + decltype(x)(c) * y; });
    })
