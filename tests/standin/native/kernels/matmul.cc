// Matrix products.
#include "../tensors.h"

// Leading dimensions broadcast; a vector is a row on the left and a column on the right.
static std::vector<float> matmul(const T *self, const T *mat2) {
  T a = *self, b = *mat2;
  if (a.ndim == 1) {
    a = spread(&a, {1, a.dims[0]});
  }
  if (b.ndim == 1) {
    b.ndim = 2;
    b.dims[1] = 1;
    b.strides[1] = 0;
  }
  int64_t m = a.dims[a.ndim - 2], k = a.dims[a.ndim - 1], n = b.dims[b.ndim - 1];
  int a_leading = a.ndim - 2, b_leading = b.ndim - 2, leading = std::max(a_leading, b_leading);
  Dims a_dims, b_dims;
  for (int i = 0; i < leading; i++) {
    int in_a = i - leading + a_leading, in_b = i - leading + b_leading;
    int64_t size = std::max(in_a < 0 ? 1 : a.dims[in_a], in_b < 0 ? 1 : b.dims[in_b]);
    a_dims.push_back(size);
    b_dims.push_back(size);
  }
  int64_t products = count(a_dims);
  a_dims.insert(a_dims.end(), {m, k});
  b_dims.insert(b_dims.end(), {k, n});
  a = spread(&a, a_dims), b = spread(&b, b_dims);
  auto left = load<float>(&a), right = load<float>(&b);
  std::vector<float> result(products * m * n);
  for (int64_t i = 0; i < products; i++) gemm(&left[i * m * k], &right[i * k * n], &result[i * m * n], m, k, n);
  return result;
}

// The inner dimensions of both, or "".
static std::string unequal_inner(const T *a, const T *b) {
  int64_t left = a->ndim ? a->dims[a->ndim - 1] : 0, right = b->ndim ? b->dims[b->ndim == 1 ? 0 : b->ndim - 2] : 0;
  return left == right
             ? ""
             : "the inner dimensions must be equal: " + std::to_string(left) + " and " + std::to_string(right);
}
#define PRODUCT(name)                                                                                                  \
  CHECKED_KERNEL(name, (const T *self, const T *mat2, T *out, int8_t, PLAN), IN(self, mat2), OUT(out),                 \
                 unequal_inner(self, mat2), { store(out, matmul(self, mat2)); })
PRODUCT(aclnnMm)
PRODUCT(aclnnMatmul)
PRODUCT(aclnnBatchMatMul)

// out = beta * self + alpha * mat1 mat2
CHECKED_KERNEL(aclnnAddmm,
               (const T *self, const T *mat1, const T *mat2, const scalar *beta, const scalar *alpha, T *out, int8_t,
                PLAN),
               IN(self, mat1, mat2), OUT(out), unequal_inner(mat1, mat2), {
                 auto product = matmul(mat1, mat2);
                 T added = spread(self, dims(out));
                 auto terms = load<float>(&added);
                 float term_factor = num(beta), product_factor = num(alpha);
                 for (size_t i = 0; i < product.size(); i++)
                   product[i] = product_factor * product[i] + term_factor * terms[i];
                 store(out, product);
               })
