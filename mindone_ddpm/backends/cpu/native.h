// The hot operators of a UNet on an x86-64 or ARM CPU, for MindSpore's `Custom` operator: what they share. All tensors are
// float32. Operators whose name ends in _bf16 may round the factors of their products to bf16, and sum in float32.
//
// compiler.py compiles the .cpp files of this folder once on the user's machine into one library, and native.py loads it.
// Every operator has the signature that MindSpore documents for its "aot" operators: inputs come first, outputs last, 0
// means success. OPERATOR(name) begins one; inside there are `count`, `parameters`, `axes` and `shapes`.
//
// Sums are taken in a fixed order, so that the same input gives the same bits for a fixed number of threads. Most operators
// do so for any number; convolutions choose their algorithm by it.

#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>

#include "onednn.h"

// Hidden: another version of this library in the same process must not take these names.
namespace native __attribute__((visibility("hidden"))) {

// --- threads and memory (runtime.cpp) -------------------------------------------------------------------------------

extern bool started;  // by mindone_ddpm_start: threads, engine and stream are there
extern onednn::ThreadPool *pool;
extern void *engine, *stream, *attributes;
// MindSpore may start operators that do not wait for each other from several threads: here they take turns.
extern std::mutex turn;

// Whether weights are the same whenever they lie at the same place: told by an operator (of this thread), and promised from
// outside for a while (mindone_ddpm_hold_weights). If both, convolutions keep them as their products need them, as long as
// that takes no more than these bytes: 0 where nothing was promised.
extern thread_local bool weights_are_parameters;
extern size_t most_held;

// Memory shared by all operators for what is needed only while one of them runs; nullptr if there is not enough.
char *scratch(size_t size);

inline void parallel(int64_t count, const std::function<void(int64_t)> &body) {
    pool->parallel_for(static_cast<int>(count), [&](int number, int) { body(number); });
}

// --- arithmetic -----------------------------------------------------------------------------------------------------

// e^x with a relative error below 2e-7, in a form that compilers turn into vector instructions: 2^n times a polynomial
// on [-ln 2 / 2, ln 2 / 2].
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float n = std::nearbyintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

constexpr int64_t block = 4096;  // elements of a partial sum
constexpr int64_t rows_together = 16, columns_together = 32;  // of a matrix, in one turn of a thread

// How many parts a size has, of which the last may be smaller.
inline int64_t parts_of(int64_t size, int64_t part) { return (size + part - 1) / part; }

inline int64_t count_of(const int64_t *shape, int axes) {
    int64_t count = 1;
    for (int axis = 0; axis < axes; ++axis) count *= shape[axis];
    return count;
}

// In float by blocks, and these in double.
inline double sum_of(const float *values, int64_t size) {
    double total = 0.0;
    for (int64_t start = 0; start < size; start += block) {
        const int64_t end = std::min(size, start + block);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = start; i < end; ++i) sum += values[i];
        total += sum;
    }
    return total;
}

// Matrices by rows; `stride` is the distance from one row of the result to the next.
inline void multiply(char transpose_a, char transpose_b, int64_t rows, int64_t columns, int64_t depth, float factor,
                     const float *a, int64_t a_stride, const float *b, int64_t b_stride, float keep, float *result,
                     int64_t stride) {
    onednn::threadpool_interop_sgemm(transpose_a, transpose_b, rows, columns, depth, factor, a, a_stride, b, b_stride,
                                     keep, result, stride, pool);
}

inline void multiply(char transpose_a, char transpose_b, int64_t rows, int64_t columns, int64_t depth, float factor,
                     const uint16_t *a, int64_t a_stride, const uint16_t *b, int64_t b_stride, float keep,
                     float *result, int64_t stride) {
    onednn::threadpool_interop_gemm_bf16bf16f32(transpose_a, transpose_b, rows, columns, depth, factor, a, a_stride, b,
                                                b_stride, keep, result, stride, pool);
}

// The nearest bf16, of two the even one: the upper half of a float's bits.
inline uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);
}

// Floats as the numbers that a product is computed with: themselves, or rounded ones in `memory`.
inline const float *factors_of(const float *values, int64_t, float *) { return values; }

inline const uint16_t *factors_of(const float *values, int64_t size, uint16_t *memory) {
    parallel(parts_of(size, block), [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) memory[i] = to_bf16(values[i]);
    });
    return memory;
}

// --- loops that are no operators of their own (elementwise.cpp) -----------------------------------------------------

void add_to(void *to, const void *more, int64_t size);
// Rows of two matrices next to each other, (rows, a) and (rows, b) -> (rows, a + b); and back.
void join(const float *first, int64_t a, const float *second, int64_t b, int64_t rows, float *both);
void separate(const float *both, int64_t a, int64_t b, int64_t rows, float *first, float *second);
// Every pixel becomes four; and back, the sum of each four. `shape`: (n, c, h, w), of the smaller images.
void enlarge(const float *x, const int64_t *shape, float *y);
void reduce(const float *dy, const int64_t *shape, float *dx);

// --- operators ------------------------------------------------------------------------------------------------------

// Measures an operator from its construction to its destruction; see mindone_ddpm_times.
class Clock {
  public:
    explicit Clock(const char *name) : name_(name), start_(std::chrono::steady_clock::now()) {}
    ~Clock();

  private:
    const char *name_;
    const std::chrono::steady_clock::time_point start_;
};

}  // namespace native

#define PARAMETERS int count, void **parameters, int *axes, int64_t **shapes
#define OPERATOR(name)                                                                              \
    static int name##_body(PARAMETERS);                                                             \
    extern "C" int name(PARAMETERS, const char **, void *, void *) {                                \
        if (!native::started) return 1; /* a second copy of this library that nobody has started */ \
        const native::Clock clock(#name);                                                           \
        return name##_body(count, parameters, axes, shapes);                                        \
    }                                                                                               \
    static int name##_body([[maybe_unused]] int count, void **parameters,                           \
                           [[maybe_unused]] int *axes, int64_t **shapes)
