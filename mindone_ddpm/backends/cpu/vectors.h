// Vectors of 16 floats, as g++ and clang++ know them: one register with AVX-512, two with AVX2.

#pragma once

#include <cstdint>
#include <cstring>

namespace native __attribute__((visibility("hidden"))) {

constexpr int64_t lanes = 16;
typedef float Vector __attribute__((vector_size(4 * lanes)));
typedef int32_t Integers __attribute__((vector_size(4 * lanes)));

inline Vector load(const float *from) {
    Vector result;
    std::memcpy(&result, from, sizeof(result));
    return result;
}

inline void store(float *to, Vector values) { std::memcpy(to, &values, sizeof(values)); }

inline Vector larger(Vector a, Vector b) { return a < b ? b : a; }

// 2^x with a relative error below 3e-7, for x below 127: 2^n times a polynomial on [-1/2, 1/2] with the smallest largest
// relative error. What is below 2^-126 becomes that.
inline Vector power_of_two(Vector x) {
    constexpr float shift = 12582912.0f;  // 1.5 * 2^23: a float above it has no binary places
    x = x < -126.0f ? Vector{} - 126.0f : x;
    const Vector n = (x + shift) - shift, r = x - n;
    Vector p = r * 1.327646044e-3f + 9.675541242e-3f;
    p = p * r + 5.550713309e-2f;
    p = p * r + 2.402211973e-1f;
    p = p * r + 6.931469670e-1f;
    p = p * r + 1.0f;
    const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
    Vector power;
    std::memcpy(&power, &exponent, sizeof(power));
    return p * power;
}

#if defined(__clang__)
#define CHOOSE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CHOOSE(a, b, ...) __builtin_shuffle(a, b, Integers{__VA_ARGS__})
#endif

// Swap rows and columns of 16 x 16 numbers.
inline void swap_rows_and_columns(Vector *rows) {
    // Rows that are 1, 2, 4 and 8 apart exchange squares of that side.
    for (int i = 0; i < 16; i += 2) {
        const Vector a = rows[i], b = rows[i + 1];
        rows[i] = CHOOSE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        rows[i + 1] = CHOOSE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    }
    for (int i = 0; i < 16; i += (i % 2 == 1) ? 3 : 1) {
        const Vector a = rows[i], b = rows[i + 2];
        rows[i] = CHOOSE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        rows[i + 2] = CHOOSE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
    for (int i = 0; i < 16; i += (i % 4 == 3) ? 5 : 1) {
        const Vector a = rows[i], b = rows[i + 4];
        rows[i] = CHOOSE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        rows[i + 4] = CHOOSE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
    for (int i = 0; i < 8; ++i) {
        const Vector a = rows[i], b = rows[i + 8];
        rows[i] = CHOOSE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        rows[i + 8] = CHOOSE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
}

#undef CHOOSE

}  // namespace native
