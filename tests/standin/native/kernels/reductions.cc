// Reductions and softmax.
#include "../tensors.h"

KERNEL(aclnnReduceSum, (const T *a, const seq *d, bool keep, int t, T *o, PLAN), IN(a), OUT(o),
       { store(o, reduce(a, ints(d), 0, [](double x, double y) { return x + y; })); })
KERNEL(aclnnMean, (const T *a, const seq *d, bool keep, int t, T *o, PLAN), IN(a), OUT(o), {
  auto r = reduce(a, ints(d), 0, [](double x, double y) { return x + y; });
  double n = double(count(dims(a))) / r.size();
  for (auto &v : r) v /= n;
  store(o, r);
})
KERNEL(aclnnAll, (const T *a, const seq *d, bool keep, T *o, PLAN), IN(a), OUT(o),
       { store(o, reduce(a, ints(d), 1, [](double x, double y) { return double(x && y); })); })
KERNEL(aclnnAny, (const T *a, const seq *d, bool keep, T *o, PLAN), IN(a), OUT(o),
       { store(o, reduce(a, ints(d), 0, [](double x, double y) { return double(x || y); })); })
static void softmax(const T *a, int64_t d, T *o) {
  int n = a->ndim, k = d < 0 ? d + n : d;
  int64_t in = 1, out = 1, m = a->dims[k];
  for (int i = 0; i < k; i++) out *= a->dims[i];
  for (int i = k + 1; i < n; i++) in *= a->dims[i];
  auto u = load<float>(a);
  for (int64_t i = 0; i < out; i++)
    for (int64_t j = 0; j < in; j++) {
      float mx = -INFINITY, s = 0;
      auto at = [&](int64_t q) -> float & { return u[(i * m + q) * in + j]; };
      for (int64_t q = 0; q < m; q++) mx = std::max(mx, at(q));
      for (int64_t q = 0; q < m; q++) s += at(q) = std::exp(at(q) - mx);
      for (int64_t q = 0; q < m; q++) at(q) /= s;
    }
  store(o, u);
}
KERNEL(aclnnSoftmax, (const T *a, int64_t d, T *o, PLAN), IN(a), OUT(o), { softmax(a, d, o); })
KERNEL(aclnnSoftmaxBackward, (const T *g, const T *y, int64_t d, T *o, PLAN), IN(g, y), OUT(o), {
  int n = y->ndim, k = d < 0 ? d + n : d;
  int64_t in = 1, out = 1, m = y->dims[k];
  for (int i = 0; i < k; i++) out *= y->dims[i];
  for (int i = k + 1; i < n; i++) in *= y->dims[i];
  auto u = load<float>(y), v = load<float>(g);
  for (int64_t i = 0; i < out; i++)
    for (int64_t j = 0; j < in; j++) {
      float s = 0;
      for (int64_t q = 0; q < m; q++) {
        int64_t p = (i * m + q) * in + j;
        s += u[p] * v[p];
      }
      for (int64_t q = 0; q < m; q++) {
        int64_t p = (i * m + q) * in + j;
        u[p] *= v[p] - s;
      }
    }
  store(o, u);
})

KERNEL(aclnnMseLoss, (const T *a, const T *b, int64_t red, T *o, PLAN), IN(a, b), OUT(o), {
  T x = spread(a, dims(a));
  auto u = load<float>(a), v = load<float>(b);
  std::vector<double> r(count(dims(o)), 0.0);
  for (size_t i = 0; i < u.size(); i++) {
    double d = double(u[i] - v[i]);
    d *= d;
    if (red == 0)
      r[i] = d;
    else
      r[0] += d;
  }
  if (red == 1) r[0] /= u.size();
  store(o, r);
})
