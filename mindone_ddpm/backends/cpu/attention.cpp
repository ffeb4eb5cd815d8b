// Attention of several heads: matrix products by oneDNN where heads are wide, else see narrow.cpp.

#include <vector>

#include "narrow.h"

using namespace native;

namespace native {

float *thread_scratch(size_t floats) {
    thread_local std::vector<float> memory;
    constexpr size_t cache_line = 16;  // in floats
    if (memory.size() < floats + cache_line) memory.resize(floats + cache_line);
    const auto place = reinterpret_cast<uintptr_t>(memory.data());
    return memory.data() + (64 - place % 64) % 64 / sizeof(float);
}

}  // namespace native

namespace {

constexpr int64_t query_rows = 128;  // queries in one turn: their scores stay in the CPU's cache

Attention problem_of(void **inputs, int64_t **shapes, const void *scale) {
    return {shapes[0][0],
            shapes[0][1],
            shapes[1][1],
            shapes[0][2],
            shapes[0][3],
            *static_cast<const float *>(scale),
            static_cast<const float *>(inputs[0]),
            static_cast<const float *>(inputs[1]),
            static_cast<const float *>(inputs[2])};
}

// Of `size` numbers, for factors that are rounded; nothing else needs any.
template <typename Number>
Number *memory_for(int64_t size) {
    return sizeof(Number) == sizeof(float) ? nullptr : reinterpret_cast<Number *>(scratch(sizeof(Number) * size));
}

template <typename Number>
int attend_wide(const Attention &at, float *out, float *logs) {
    const int64_t keys = at.keys, heads = at.heads, width = at.width, stride = heads * width;
    const int64_t blocks = parts_of(at.queries, query_rows);
    const int64_t q_size = at.samples * at.queries * stride, k_size = at.samples * keys * stride;
    auto *memory = memory_for<Number>(q_size + 2 * k_size);
    if (memory == nullptr && sizeof(Number) != sizeof(float)) return 1;
    const Number *q = factors_of(at.q, q_size, memory);
    const Number *k = factors_of(at.k, k_size, memory == nullptr ? memory : memory + q_size);
    const Number *v = factors_of(at.v, k_size, memory == nullptr ? memory : memory + q_size + k_size);
    parallel(at.samples * heads * blocks, [&](int64_t item) {
        const int64_t start = item % blocks * query_rows, head = item / blocks % heads, sample = item / blocks / heads;
        const int64_t rows = std::min(query_rows, at.queries - start), place = sample * at.queries + start;
        const int64_t here = place * stride + head * width, there = sample * keys * stride + head * width;
        float *scores = thread_scratch(2 * query_rows * keys);
        auto *rounded = reinterpret_cast<Number *>(scores + query_rows * keys);
        multiply('N', 'T', rows, keys, width, at.scale, q + here, stride, k + there, stride, 0.0f, scores, keys);
        for (int64_t row = 0; row < rows; ++row) {
            float *values = scores + row * keys, most = values[0], sum = 0.0f;
#pragma omp simd reduction(max : most)
            for (int64_t i = 0; i < keys; ++i) most = most < values[i] ? values[i] : most;  // std::max: no vectors
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < keys; ++i) {
                const float value = exponential(values[i] - most);
                values[i] = value;
                sum += value;
            }
            const float share = 1.0f / sum;
#pragma omp simd
            for (int64_t i = 0; i < keys; ++i) values[i] *= share;
            logs[(place + row) * heads + head] = most + std::log(sum);
        }
        const Number *shares = factors_of(scores, rows * keys, rounded);
        multiply('N', 'N', rows, width, keys, 1.0f, shares, keys, v + there, stride, 0.0f, out + here, stride);
    });
    return 0;
}

template <typename Number>
int attend_wide_backward(const Attention &at, const float *dout, const float *out, const float *logs, float *dq, float *dk,
             float *dv) {
    const int64_t keys = at.keys, heads = at.heads, width = at.width, stride = heads * width;
    const int64_t q_size = at.samples * at.queries * stride, k_size = at.samples * keys * stride;
    auto *memory = memory_for<Number>(2 * q_size + 2 * k_size);
    if (memory == nullptr && sizeof(Number) != sizeof(float)) return 1;
    const Number *q = factors_of(at.q, q_size, memory);
    const Number *k = factors_of(at.k, k_size, memory == nullptr ? memory : memory + q_size);
    const Number *v = factors_of(at.v, k_size, memory == nullptr ? memory : memory + q_size + k_size);
    const Number *dy = factors_of(dout, q_size, memory == nullptr ? memory : memory + q_size + 2 * k_size);
    parallel(at.samples * heads, [&](int64_t item) {
        float *shares = thread_scratch(4 * query_rows * keys), *slopes = shares + query_rows * keys;
        auto *rounded_shares = reinterpret_cast<Number *>(slopes + query_rows * keys);
        auto *rounded_slopes = rounded_shares + query_rows * keys;
        const int64_t sample = item / heads, head = item % heads, there = sample * keys * stride + head * width;
        for (int64_t start = 0; start < at.queries; start += query_rows) {
            const int64_t rows = std::min(query_rows, at.queries - start), place = sample * at.queries + start;
            const int64_t here = place * stride + head * width;
            const float keep = start == 0 ? 0.0f : 1.0f;
            multiply('N', 'T', rows, keys, width, at.scale, q + here, stride, k + there, stride, 0.0f, shares, keys);
            multiply('N', 'T', rows, keys, width, 1.0f, dy + here, stride, v + there, stride, 0.0f, slopes, keys);
            for (int64_t row = 0; row < rows; ++row) {
                float *share = shares + row * keys, *slope = slopes + row * keys;
                const float *g = dout + here + row * stride, *y = out + here + row * stride;
                const float log = logs[(place + row) * heads + head];
                float level = 0.0f;
                for (int64_t i = 0; i < width; ++i) level += g[i] * y[i];
#pragma omp simd
                for (int64_t i = 0; i < keys; ++i) {
                    share[i] = exponential(share[i] - log);
                    slope[i] = share[i] * (slope[i] - level);
                }
            }
            const Number *s = factors_of(slopes, rows * keys, rounded_slopes);
            const Number *p = factors_of(shares, rows * keys, rounded_shares);
            multiply('N', 'N', rows, width, keys, at.scale, s, keys, k + there, stride, 0.0f, dq + here, stride);
            multiply('T', 'N', keys, width, rows, at.scale, s, keys, q + here, stride, keep, dk + there, stride);
            multiply('T', 'N', keys, width, rows, 1.0f, p, keys, dy + here, stride, keep, dv + there, stride);
        }
    });
    return 0;
}

// (queries (n, t, h, d), keys (n, s, h, d), values (n, s, h, d), scale) -> softmax(scale q k^T) v of each of h heads, and
// each row's log of its sum of exponentials, from which the gradient makes the scores again instead of keeping them
// (Dao et al. 2022, section 3.1).
template <typename Number>
int attend(void **parameters, int64_t **shapes) {
    const Attention problem = problem_of(parameters, shapes, parameters[3]);
    auto *out = static_cast<float *>(parameters[4]), *logs = static_cast<float *>(parameters[5]);
    std::lock_guard<std::mutex> lock(turn);
    if (problem.width > most_narrow) return attend_wide<Number>(problem, out, logs);
    attend_narrow(problem, out, logs);
    return 0;
}

// (gradient of out, queries, keys, values, out, logs, scale) -> gradients of queries, keys and values
// (Dao et al. 2022, algorithm 4).
template <typename Number>
int attend_backward(void **parameters, int64_t **shapes) {
    const Attention problem = problem_of(parameters + 1, shapes + 1, parameters[6]);
    const auto *dout = static_cast<const float *>(parameters[0]), *out = static_cast<const float *>(parameters[4]);
    const auto *logs = static_cast<const float *>(parameters[5]);
    auto *dq = static_cast<float *>(parameters[7]), *dk = static_cast<float *>(parameters[8]);
    auto *dv = static_cast<float *>(parameters[9]);
    std::lock_guard<std::mutex> lock(turn);
    if (problem.width > most_narrow_backward) return attend_wide_backward<Number>(problem, dout, out, logs, dq, dk, dv);
    attend_narrow_backward(problem, dout, out, logs, dq, dk, dv);
    return 0;
}

}  // namespace

OPERATOR(attention) { return attend<float>(parameters, shapes); }
OPERATOR(attention_bf16) { return attend<uint16_t>(parameters, shapes); }
OPERATOR(attention_backward) { return attend_backward<float>(parameters, shapes); }
OPERATOR(attention_backward_bf16) { return attend_backward<uint16_t>(parameters, shapes); }
