// Reading and writing tensors of any type and layout, reductions and the matrix product.
#include "tensors.h"
#include <immintrin.h>

// ---- types ----
struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};
struct Bool {
  uint8_t byte;
};

static float widen(Half h) { return _cvtsh_ss(h.bits); }
static float widen(Brain b) {
  uint32_t bits = uint32_t(b.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static float widen(Bool b) { return b.byte != 0; }
template <class E> static E widen(E element) { return element; }

template <class V> static void narrow(V value, Half &to) {
  to.bits = _cvtss_sh(float(value), _MM_FROUND_TO_NEAREST_INT);
}
template <class V> static void narrow(V value, Brain &to) {
  float single = float(value);
  uint32_t bits;
  memcpy(&bits, &single, 4);
  bool nan = (bits & 0x7fffffff) > 0x7f800000;
  uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1); // to nearest, ties to even
  to.bits = nan ? 0x7fc0 : rounded >> 16;
}
template <class V> static void narrow(V value, Bool &to) { to.byte = value != V(0); }
template <class V, class E> static void narrow(V value, E &to) { to = E(value); }

// Calls fn with a null pointer to the C++ type of `dtype`.
template <class Fn> static void with_type(int dtype, Fn fn) {
  switch (dtype) {
  case F32:
    return fn((float *)0);
  case F16:
    return fn((Half *)0);
  case BF16:
    return fn((Brain *)0);
  case F64:
    return fn((double *)0);
  case BOOL:
    return fn((Bool *)0);
  case I8:
    return fn((int8_t *)0);
  case I16:
    return fn((int16_t *)0);
  case I32:
    return fn((int32_t *)0);
  case I64:
    return fn((int64_t *)0);
  default:
    return fn((uint8_t *)0);
  }
}

size_t element_bytes(int dtype) {
  size_t bytes = 0;
  with_type(dtype, [&](auto *type) { bytes = sizeof *type; });
  return bytes;
}

double read(const void *element, int dtype) {
  double value = 0;
  with_type(dtype, [&](auto *type) { value = widen(*(decltype(type))element); });
  return value;
}

// ---- tensors ----
Dims dims(const T *t) { return Dims(t->dims, t->dims + t->ndim); }

int64_t count(const Dims &dims) {
  int64_t n = 1;
  for (auto size : dims) n *= size;
  return n;
}

bool integral(const T *t) { return t->dtype != F32 && t->dtype != F16 && t->dtype != BF16 && t->dtype != F64; }

// Calls fn(index of the first element, its address, how many, elements from one to the next) for each row of the last
// dimension; once for a dense tensor.
template <class E, class Fn> static void rows(const T *t, E *base, Fn fn) {
  int64_t total = count(dims(t)), dense = 1;
  if (!total) return;
  bool is_dense = true;
  for (int i = int(t->ndim) - 1; i >= 0; i--) {
    is_dense &= t->dims[i] == 1 || t->strides[i] == dense;
    dense *= t->dims[i];
  }
  if (is_dense) return fn(0, base, total, 1);
  int last = int(t->ndim) - 1;
  int64_t at[16] = {0}, length = t->dims[last];
  for (int64_t i = 0; i < total; i += length) {
    fn(i, base, length, t->strides[last]);
    for (int k = last - 1; k >= 0; k--) {
      base += t->strides[k];
      if (++at[k] < t->dims[k]) break;
      base -= t->strides[k] * t->dims[k];
      at[k] = 0;
    }
  }
}

// Eight at a time: the compiler does not do that for float16.
static void widen_row(const Half *from, float *to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
  for (; i < n; i++) to[i] = widen(from[i]);
}
template <class E, class V> static void widen_row(const E *from, V *to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = V(widen(from[i]));
}
static void narrow_row(const float *from, Half *to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; i++) narrow(from[i], to[i]);
}
template <class E, class V> static void narrow_row(const V *from, E *to, int64_t n) {
  for (int64_t i = 0; i < n; i++) narrow(from[i], to[i]);
}

template <class V> std::vector<V> load(const T *t) {
  std::vector<V> elements(count(dims(t)));
  with_type(t->dtype, [&](auto *type) {
    rows(t, (decltype(type))t->data + t->off, [&](int64_t first, auto *from, int64_t n, int64_t step) {
      V *to = elements.data() + first;
      if (step == 1) return widen_row(from, to, n);
      for (int64_t i = 0; i < n; i++) to[i] = V(widen(from[i * step]));
    });
  });
  return elements;
}
template <class V> void store(T *t, const std::vector<V> &elements) {
  with_type(t->dtype, [&](auto *type) {
    rows(t, (decltype(type))t->data + t->off, [&](int64_t first, auto *to, int64_t n, int64_t step) {
      const V *from = elements.data() + first;
      if (step == 1) return narrow_row(from, to, n);
      for (int64_t i = 0; i < n; i++) narrow(from[i], to[i * step]);
    });
  });
}
template std::vector<float> load(const T *);
template std::vector<double> load(const T *);
template std::vector<int64_t> load(const T *);
template void store(T *, const std::vector<float> &);
template void store(T *, const std::vector<double> &);
template void store(T *, const std::vector<int64_t> &);

Dims ints(const seq *s) {
  if (!s) return {};
  const int64_t *values = (const int64_t *)s->data;
  return Dims(values, values + s->n);
}

T spread(const T *t, const Dims &to) {
  T view = *t;
  int added = int(to.size()) - int(t->ndim);
  for (int i = 0; i < int(to.size()); i++) {
    int from = i - added;
    view.dims[i] = to[i];
    view.strides[i] = from < 0 || t->dims[from] == 1 ? 0 : t->strides[from];
  }
  view.ndim = to.size();
  return view;
}

T part(const T *t, int axis, int64_t from, int64_t n) {
  T view = *t;
  view.off += from * t->strides[axis];
  view.dims[axis] = n;
  return view;
}

T lift(const scalar *s) {
  T t;
  memset(&t, 0, sizeof t);
  t.magic = TENSOR;
  t.dtype = s->dtype;
  t.data = (void *)s->val;
  return t;
}

std::vector<double> reduce(const T *a, Dims axes, double start, double (*fn)(double, double)) {
  int rank = a->ndim;
  std::vector<bool> folded(rank, axes.empty());
  for (auto axis : axes) folded[axis_from(axis, a)] = true;
  Dims strides(rank, 0); // in the result; 0 along a folded axis
  int64_t results = 1;
  for (int k = rank - 1; k >= 0; k--)
    if (!folded[k]) {
      strides[k] = results;
      results *= a->dims[k];
    }
  std::vector<double> result(results, start);
  Dims position(rank, 0);
  int64_t at = 0;
  for (double element : load<double>(a)) {
    result[at] = fn(result[at], element);
    for (int k = rank - 1; k >= 0; k--) {
      at += strides[k];
      if (++position[k] < a->dims[k]) break;
      at -= strides[k] * a->dims[k];
      position[k] = 0;
    }
  }
  return result;
}

// ---- matrix product ----
typedef float Eight __attribute__((vector_size(32), aligned(4)));
enum { TILE_ROWS = 4, TILE_COLUMNS = 16 };

// One tile of c: `rows` rows (at most TILE_ROWS) of all TILE_COLUMNS columns. `panel` is (k, TILE_COLUMNS).
template <int ROWS>
static void tile(const float *a, int64_t a_stride, const float *panel, int64_t k, float out[][TILE_COLUMNS]) {
  Eight sum[ROWS][2] = {};
  for (int64_t q = 0; q < k; q++) {
    const Eight *b = (const Eight *)(panel + q * TILE_COLUMNS);
    for (int r = 0; r < ROWS; r++) {
      float x = a[r * a_stride + q];
      sum[r][0] += x * b[0];
      sum[r][1] += x * b[1];
    }
  }
  memcpy(out, sum, sizeof sum);
}

void gemm(const float *a, const float *b, float *c, int64_t m, int64_t k, int64_t n, bool add) {
  std::vector<float> panel(k * TILE_COLUMNS);
  float out[TILE_ROWS][TILE_COLUMNS];
  for (int64_t column = 0; column < n; column += TILE_COLUMNS) {
    int64_t width = std::min<int64_t>(TILE_COLUMNS, n - column);
    for (int64_t q = 0; q < k; q++) {
      float *to = &panel[q * TILE_COLUMNS];
      memcpy(to, b + q * n + column, 4 * width);
      for (int64_t j = width; j < TILE_COLUMNS; j++) to[j] = 0;
    }
    for (int64_t row = 0; row < m;) {
      int64_t height = m - row >= TILE_ROWS ? TILE_ROWS : 1;
      if (height == TILE_ROWS)
        tile<TILE_ROWS>(a + row * k, k, panel.data(), k, out);
      else
        tile<1>(a + row * k, k, panel.data(), k, out);
      for (int64_t r = 0; r < height; r++) {
        float *to = c + (row + r) * n + column;
        for (int64_t j = 0; j < width; j++) to[j] = add ? to[j] + out[r][j] : out[r][j];
      }
      row += height;
    }
  }
}

void transpose(const float *from, float *to, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}
