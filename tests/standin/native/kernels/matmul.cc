// Matrix products.
#include "../tensors.h"

static std::vector<float> matmul(const T *a, const T *b, const Dims &od) {
  T x = *a, y = *b;
  if (a->ndim == 1) {
    x.ndim = 2;
    x.dims[1] = a->dims[0];
    x.strides[1] = a->strides[0];
    x.dims[0] = 1;
    x.strides[0] = 0;
  }
  if (b->ndim == 1) {
    y.ndim = 2;
    y.dims[1] = 1;
    y.strides[1] = 0;
  }
  int64_t m = x.dims[x.ndim - 2], k = x.dims[x.ndim - 1], n = y.dims[y.ndim - 1];
  Dims batch;
  {
    size_t r = std::max(x.ndim, y.ndim) - 2;
    for (size_t i = 0; i < r; i++) {
      int p = int(i) - int(r) + int(x.ndim) - 2, q = int(i) - int(r) + int(y.ndim) - 2;
      batch.push_back(std::max(p < 0 ? 1 : x.dims[p], q < 0 ? 1 : y.dims[q]));
    }
  }
  Dims xd = batch, yd = batch;
  xd.push_back(m);
  xd.push_back(k);
  yd.push_back(k);
  yd.push_back(n);
  T xs = spread(&x, xd), ys = spread(&y, yd);
  auto u = load<float>(&xs), v = load<float>(&ys);
  int64_t B = count(batch);
  std::vector<float> r(B * m * n);
  for (int64_t i = 0; i < B; i++) gemm(&u[i * m * k], &v[i * k * n], &r[i * m * n], m, k, n);
  return r;
}
KERNEL(aclnnMm, (const T *a, const T *b, T *o, int8_t c, PLAN), IN(a, b), OUT(o), { store(o, matmul(a, b, dims(o))); })
KERNEL(aclnnMatmul, (const T *a, const T *b, T *o, int8_t c, PLAN), IN(a, b), OUT(o),
       { store(o, matmul(a, b, dims(o))); })
KERNEL(aclnnBatchMatMul, (const T *a, const T *b, T *o, int8_t c, PLAN), IN(a, b), OUT(o),
       { store(o, matmul(a, b, dims(o))); })
KERNEL(aclnnAddmm, (const T *s, const T *a, const T *b, const scalar *beta, const scalar *alpha, T *o, int8_t c, PLAN),
       IN(s, a, b), OUT(o), {
         auto r = matmul(a, b, dims(o));
         T v = spread(s, dims(o));
         auto u = load<float>(&v);
         float x = num(beta), y = num(alpha);
         for (size_t i = 0; i < r.size(); i++) r[i] = y * r[i] + x * u[i];
         store(o, r);
       })
