// Elementwise operators.
#include "../tensors.h"

// ---- two tensors, or a tensor and a scalar ----
#define TENSOR_TENSOR(name, expression)                                                                                \
  KERNEL(name, (const T *self, const T *other, T *out, PLAN), IN(self, other), OUT(out),                               \
         { binary(self, other, out, [](auto x, auto y) { return expression; }); })
#define TENSOR_SCALAR(name, expression)                                                                                \
  KERNEL(name, (const T *self, const scalar *other, T *out, PLAN), IN(self), OUT(out), {                               \
    T value = lift(other);                                                                                             \
    binary(self, &value, out, [](auto x, auto y) { return expression; });                                              \
  })
// x and alpha * y: alpha is a scalar of the operator.
#define TENSOR_TENSOR_ALPHA(name, expression)                                                                          \
  KERNEL(name, (const T *self, const T *other, const scalar *alpha, T *out, PLAN), IN(self, other), OUT(out), {        \
    double factor = num(alpha);                                                                                        \
    binary(self, other, out, [factor](auto x, auto y) {                                                                \
      auto a = decltype(x)(factor);                                                                                    \
      return expression;                                                                                               \
    });                                                                                                                \
  })
#define TENSOR_SCALAR_ALPHA(name, expression)                                                                          \
  KERNEL(name, (const T *self, const scalar *other, const scalar *alpha, T *out, PLAN), IN(self), OUT(out), {          \
    T value = lift(other);                                                                                             \
    double factor = num(alpha);                                                                                        \
    binary(self, &value, out, [factor](auto x, auto y) {                                                               \
      auto a = decltype(x)(factor);                                                                                    \
      return expression;                                                                                               \
    });                                                                                                                \
  })

TENSOR_TENSOR(aclnnMul, x *y)
TENSOR_TENSOR(aclnnDiv, x / y)
TENSOR_TENSOR(aclnnMinimum, x != x || x < y ? x : y)
TENSOR_TENSOR(aclnnMaximum, x != x || x > y ? x : y)
TENSOR_TENSOR(aclnnPowTensorTensor, std::pow(x, y))
TENSOR_SCALAR(aclnnMuls, x *y)
TENSOR_SCALAR(aclnnDivs, x / y)
TENSOR_SCALAR(aclnnPowTensorScalar, std::pow(x, y))
TENSOR_TENSOR_ALPHA(aclnnAdd, x + a * y)
TENSOR_TENSOR_ALPHA(aclnnSub, x - a * y)
TENSOR_SCALAR_ALPHA(aclnnAdds, x + a * y)
TENSOR_SCALAR_ALPHA(aclnnSubs, x - a * y)

KERNEL(aclnnInplaceMul, (T * selfRef, const T *other, PLAN), IN(selfRef, other), OUT(),
       { binary(selfRef, other, selfRef, [](auto x, auto y) { return x * y; }); })
KERNEL(aclnnInplaceAdd, (T * selfRef, const T *other, const scalar *alpha, PLAN), IN(selfRef, other), OUT(), {
  double factor = num(alpha);
  binary(selfRef, other, selfRef, [factor](auto x, auto y) { return x + decltype(x)(factor) * y; });
})

// ---- comparisons and logic ----
template <class Fn> static void compare(const T *a, const T *b, T *out, Fn fn) {
  T x = spread(a, dims(out)), y = spread(b, dims(out));
  auto left = load<double>(&x), right = load<double>(&y);
  for (size_t i = 0; i < left.size(); i++) left[i] = fn(left[i], right[i]);
  store(out, left);
}
#define COMPARISON(name, sign)                                                                                         \
  KERNEL(aclnn##name##Tensor, (const T *self, const T *other, T *out, PLAN), IN(self, other), OUT(out),                \
         { compare(self, other, out, [](double x, double y) { return x sign y; }); })                                  \
  KERNEL(aclnn##name##Scalar, (const T *self, const scalar *other, T *out, PLAN), IN(self), OUT(out), {                \
    T value = lift(other);                                                                                             \
    compare(self, &value, out, [](double x, double y) { return x sign y; });                                           \
  })
COMPARISON(Lt, <)
COMPARISON(Le, <=)
COMPARISON(Gt, >)
COMPARISON(Ge, >=)
COMPARISON(Eq, ==)
COMPARISON(Ne, !=)

KERNEL(aclnnLogicalAnd, (const T *self, const T *other, T *out, PLAN), IN(self, other), OUT(out),
       { compare(self, other, out, [](double x, double y) { return x && y; }); })
KERNEL(aclnnLogicalOr, (const T *self, const T *other, T *out, PLAN), IN(self, other), OUT(out),
       { compare(self, other, out, [](double x, double y) { return x || y; }); })

// ---- one tensor ----
#define TENSOR(name, expression)                                                                                       \
  KERNEL(name, (const T *self, T *out, PLAN), IN(self), OUT(out),                                                      \
         { unary(self, out, [](auto x) { return expression; }); })
TENSOR(aclnnSqrt, std::sqrt(x))
TENSOR(aclnnRsqrt, 1 / std::sqrt(x))
TENSOR(aclnnReciprocal, 1 / x)
TENSOR(aclnnSin, std::sin(x))
TENSOR(aclnnCos, std::cos(x))
TENSOR(aclnnExp, std::exp(x))
TENSOR(aclnnLog, std::log(x))
TENSOR(aclnnTanh, std::tanh(x))
TENSOR(aclnnSigmoid, 1 / (1 + std::exp(-x)))
TENSOR(aclnnSilu, x / (1 + std::exp(-x)))
TENSOR(aclnnAbs, std::fabs(x))
TENSOR(aclnnNeg, -x)
TENSOR(aclnnSign, (x > 0) - (x < 0))
TENSOR(aclnnLogicalNot, !x)

// d silu(x) / dx = s (1 + x (1 - s)) with s = sigmoid(x)
KERNEL(aclnnSiluBackward, (const T *gradOutput, const T *self, T *gradInput, PLAN), IN(gradOutput, self),
       OUT(gradInput), {
         binary(gradOutput, self, gradInput, [](auto grad, auto x) {
           auto s = 1 / (1 + std::exp(-float(x)));
           return grad * s * (1 + x * (1 - s));
         });
       })

// From y = sigmoid(x): dy / dx = y (1 - y)
KERNEL(aclnnSigmoidBackward, (const T *gradOutput, const T *output, T *gradInput, PLAN), IN(gradOutput, output),
       OUT(gradInput), { binary(gradOutput, output, gradInput, [](auto grad, auto y) { return grad * y * (1 - y); }); })

// From the bits: the compiler takes infinities and NaN in arithmetic as it likes.
static bool is_finite(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  return (bits >> 52 & 0x7ff) != 0x7ff;
}
KERNEL(aclnnIsFinite, (const T *self, T *out, PLAN), IN(self), OUT(out), {
  auto elements = load<double>(self);
  for (auto &x : elements) x = is_finite(x);
  store(out, elements);
})
// An operator of MindSpore itself, which clears the output and calls it for one tensor after the other: it sets the
// output where something is NOT finite, and leaves it otherwise. MindSpore before 2.8 checks gradients with it.
KERNEL(aclnnAllFinite, (const T *gradient, T *out, PLAN), IN(gradient), OUT(out), {
  auto elements = load<double>(gradient);
  if (!std::all_of(elements.begin(), elements.end(), is_finite)) store(out, std::vector<double>(count(dims(out)), 1));
})

KERNEL(aclnnCast, (const T *self, int, T *out, PLAN), IN(self), OUT(out), {
  if (integral(self) && integral(out))
    store(out, load<int64_t>(self));
  else
    store(out, load<double>(self));
})

KERNEL(aclnnSWhere, (const T *condition, const T *self, const T *other, T *out, PLAN), IN(condition, self, other),
       OUT(out), {
         T c = spread(condition, dims(out)), x = spread(self, dims(out)), y = spread(other, dims(out));
         auto chosen = load<int64_t>(&c);
         auto result = load<double>(&x), otherwise = load<double>(&y);
         for (size_t i = 0; i < result.size(); i++)
           if (!chosen[i]) result[i] = otherwise[i];
         store(out, result);
       })

KERNEL(aclnnLerp, (const T *self, const T *end, const T *weight, T *out, PLAN), IN(self, end, weight), OUT(out), {
  T from = spread(self, dims(out)), to = spread(end, dims(out)), share = spread(weight, dims(out));
  auto result = load<float>(&from);
  auto target = load<float>(&to), shares = load<float>(&share);
  for (size_t i = 0; i < result.size(); i++) result[i] += shares[i] * (target[i] - result[i]);
  store(out, result);
})

KERNEL(aclnnClamp, (const T *self, const scalar *low, const scalar *high, T *out, PLAN), IN(self), OUT(out), {
  auto elements = load<double>(self);
  for (auto &x : elements) {
    if (low && x < num(low)) x = num(low);
    if (high && x > num(high)) x = num(high);
  }
  store(out, elements);
})

// ---- into a tensor that is there ----
KERNEL(aclnnInplaceCopy, (T * selfRef, const T *src, PLAN), IN(selfRef, src), OUT(), {
  T view = spread(src, dims(selfRef));
  store(selfRef, load<double>(&view));
})
static void fill(T *t, double value) { store(t, std::vector<double>(count(dims(t)), value)); }
KERNEL(aclnnInplaceZero, (T * selfRef, PLAN), IN(selfRef), OUT(), { fill(selfRef, 0); })
KERNEL(aclnnInplaceOne, (T * selfRef, PLAN), IN(selfRef), OUT(), { fill(selfRef, 1); })
KERNEL(aclnnInplaceFillScalar, (T * selfRef, const scalar *value, PLAN), IN(selfRef), OUT(),
       { fill(selfRef, num(value)); })

// Hendrycks & Gimpel 2016: x Phi(x), or its approximation by tanh.
static const double HALF_SQRT_2 = 0.70710678118654752, SQRT_2_PI = 0.79788456080286536;
static double gelu(double x, bool by_tanh) {
  return 0.5 * x * (1 + (by_tanh ? std::tanh(SQRT_2_PI * (x + 0.044715 * x * x * x)) : std::erf(x * HALF_SQRT_2)));
}
static double gelu_slope(double x, bool by_tanh) {
  if (!by_tanh) return 0.5 * (1 + std::erf(x * HALF_SQRT_2)) + x * 0.5 * SQRT_2_PI * std::exp(-0.5 * x * x);
  double t = std::tanh(SQRT_2_PI * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_PI * (1 + 3 * 0.044715 * x * x);
}
TENSOR(aclnnRelu, x > 0 ? x : 0)
TENSOR(aclnnErf, std::erf(x))
TENSOR(aclnnExpm1, std::expm1(x))
TENSOR(aclnnGelu, gelu(x, true))
KERNEL(aclnnGeluBackward, (const T *gradOutput, const T *self, T *gradInput, PLAN), IN(gradOutput, self),
       OUT(gradInput),
       { binary(gradOutput, self, gradInput, [](auto grad, auto x) { return grad * gelu_slope(x, true); }); })
KERNEL(aclnnGeluV2, (const T *x, int64_t approximate, T *y, PLAN), IN(x), OUT(y),
       { unary(x, y, [=](auto value) { return gelu(value, approximate == 1); }); })
CHECKED_KERNEL_WITH_TEXT(aclnnGeluBackwardV2,
                         (const T *gradOutput, const T *self, const char *approximate, T *gradInput, PLAN),
                         IN(gradOutput, self), OUT(gradInput), "", kind, approximate, {
                           bool by_tanh = kind == "tanh";
                           binary(gradOutput, self, gradInput,
                                  [=](auto grad, auto x) { return grad * gelu_slope(x, by_tanh); });
                         })
