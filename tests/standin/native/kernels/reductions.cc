// Reductions, softmax and the mean squared error.
#include "../tensors.h"

static double sum(double x, double y) { return x + y; }
KERNEL(aclnnReduceSum, (const T *self, const seq *axes, bool, int, T *out, PLAN), IN(self), OUT(out),
       { store(out, reduce(self, ints(axes), 0, sum)); })
KERNEL(aclnnMean, (const T *self, const seq *axes, bool, int, T *out, PLAN), IN(self), OUT(out), {
  auto result = reduce(self, ints(axes), 0, sum);
  double n = double(count(dims(self))) / result.size();
  for (auto &x : result) x /= n;
  store(out, result);
})
KERNEL(aclnnLinalgVectorNorm, (const T *self, const scalar *p, const seq *axes, bool, int, T *out, PLAN), IN(self), OUT(out), {
  if (num(p) != 2) throw NotProvided{"the stand-in's aclnnLinalgVectorNorm takes p = 2 only"};
  auto result = reduce(self, ints(axes), 0, [](double x, double y) { return x + y * y; });
  for (auto &x : result) x = std::sqrt(x);
  store(out, result);
})
KERNEL(aclnnAll, (const T *self, const seq *axes, bool, T *out, PLAN), IN(self), OUT(out),
       { store(out, reduce(self, ints(axes), 1, [](double x, double y) { return double(x && y); })); })
KERNEL(aclnnAny, (const T *self, const seq *axes, bool, T *out, PLAN), IN(self), OUT(out),
       { store(out, reduce(self, ints(axes), 0, [](double x, double y) { return double(x || y); })); })

// Calls fn(index of the first element, elements from one to the next, how many) for each row along an axis.
template <class Fn> static void along(const T *t, int axis, Fn fn) {
  int64_t inner = 1, outer = 1, n = t->dims[axis];
  for (int i = 0; i < axis; i++) outer *= t->dims[i];
  for (int i = axis + 1; i < int(t->ndim); i++) inner *= t->dims[i];
  for (int64_t i = 0; i < outer; i++)
    for (int64_t j = 0; j < inner; j++) fn(i * n * inner + j, inner, n);
}

KERNEL(aclnnSoftmax, (const T *self, int64_t axis, T *out, PLAN), IN(self), OUT(out), {
  auto x = load<float>(self);
  along(self, axis_from(axis, self), [&](int64_t first, int64_t step, int64_t n) {
    float largest = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) largest = std::max(largest, x[first + i * step]);
    for (int64_t i = 0; i < n; i++) total += x[first + i * step] = std::exp(x[first + i * step] - largest);
    for (int64_t i = 0; i < n; i++) x[first + i * step] /= total;
  });
  store(out, x);
})

// d x = y (grad - sum(grad * y)), where y is the softmax
KERNEL(aclnnSoftmaxBackward, (const T *gradOutput, const T *output, int64_t axis, T *out, PLAN), IN(gradOutput, output),
       OUT(out), {
         auto y = load<float>(output), grad = load<float>(gradOutput);
         along(output, axis_from(axis, output), [&](int64_t first, int64_t step, int64_t n) {
           float dot = 0;
           for (int64_t i = first; i < first + n * step; i += step) dot += y[i] * grad[i];
           for (int64_t i = first; i < first + n * step; i += step) y[i] *= grad[i] - dot;
         });
         store(out, y);
       })

enum { NO_REDUCTION, MEAN, SUM };
KERNEL(aclnnMseLoss, (const T *self, const T *target, int64_t reduction, T *out, PLAN), IN(self, target), OUT(out), {
  Dims shape(std::max(self->ndim, target->ndim), 1);
  for (const T *t : {self, target})
    for (uint64_t i = 0; i < t->ndim; i++) {
      int64_t &size = shape[shape.size() - t->ndim + i];
      size = std::max(size, t->dims[i]);
    }
  T x = spread(self, shape), y = spread(target, shape);
  auto errors = load<double>(&x), targets = load<double>(&y);
  double total = 0;
  for (size_t i = 0; i < errors.size(); i++) {
    double difference = errors[i] - targets[i];
    total += errors[i] = difference * difference;
  }
  if (reduction == NO_REDUCTION)
    store(out, errors);
  else
    store(out, std::vector<double>(1, reduction == MEAN ? total / errors.size() : total));
})
KERNEL(aclnnMax, (const T *self, T *out, PLAN), IN(self), OUT(out),
       { store(out, reduce(self, {}, -INFINITY, [](double x, double y) { return x > y ? x : y; })); })
KERNEL(aclnnMin, (const T *self, T *out, PLAN), IN(self), OUT(out),
       { store(out, reduce(self, {}, INFINITY, [](double x, double y) { return x < y ? x : y; })); })
