// Attention of several heads, and linear layers: matrix products by oneDNN.

#include <vector>

#include "native.h"

using namespace native;

namespace {

constexpr int64_t query_rows = 128;  // queries in one turn: their scores stay in the CPU's cache

float *thread_scratch(size_t floats) {
    thread_local std::vector<float> memory;
    if (memory.size() < floats) memory.resize(floats);
    return memory.data();
}

}  // namespace

// (queries (n, t, h, d), keys (n, s, h, d), values (n, s, h, d), scale) -> softmax(scale q k^T) v of each of h heads, and
// each row's log of its sum of exponentials, from which the gradient makes the scores again instead of keeping them
// (Dao et al. 2022, section 3.1).
OPERATOR(attention) {
    const auto *q = static_cast<const float *>(parameters[0]), *k = static_cast<const float *>(parameters[1]);
    const auto *v = static_cast<const float *>(parameters[2]);
    const float scale = *static_cast<const float *>(parameters[3]);
    auto *out = static_cast<float *>(parameters[4]), *logs = static_cast<float *>(parameters[5]);
    const int64_t samples = shapes[0][0], queries = shapes[0][1], heads = shapes[0][2], width = shapes[0][3];
    const int64_t keys = shapes[1][1], stride = heads * width, blocks = (queries + query_rows - 1) / query_rows;
    std::lock_guard<std::mutex> lock(turn);
    parallel(samples * heads * blocks, [&](int64_t item) {
        const int64_t start = item % blocks * query_rows, head = item / blocks % heads, sample = item / blocks / heads;
        const int64_t rows = std::min(query_rows, queries - start), place = sample * queries + start;
        const int64_t here = place * stride + head * width, there = sample * keys * stride + head * width;
        float *scores = thread_scratch(query_rows * keys);
        multiply('N', 'T', rows, keys, width, scale, q + here, stride, k + there, stride, 0.0f, scores, keys);
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
        multiply('N', 'N', rows, width, keys, 1.0f, scores, keys, v + there, stride, 0.0f, out + here, stride);
    });
    return 0;
}

// (gradient of out, queries, keys, values, out, logs, scale) -> gradients of queries, keys and values
// (Dao et al. 2022, algorithm 4).
OPERATOR(attention_backward) {
    const auto *dout = static_cast<const float *>(parameters[0]), *q = static_cast<const float *>(parameters[1]);
    const auto *k = static_cast<const float *>(parameters[2]), *v = static_cast<const float *>(parameters[3]);
    const auto *out = static_cast<const float *>(parameters[4]), *logs = static_cast<const float *>(parameters[5]);
    const float scale = *static_cast<const float *>(parameters[6]);
    auto *dq = static_cast<float *>(parameters[7]), *dk = static_cast<float *>(parameters[8]);
    auto *dv = static_cast<float *>(parameters[9]);
    const int64_t samples = shapes[1][0], queries = shapes[1][1], heads = shapes[1][2], width = shapes[1][3];
    const int64_t keys = shapes[2][1], stride = heads * width;
    std::lock_guard<std::mutex> lock(turn);
    parallel(samples * heads, [&](int64_t item) {
        float *shares = thread_scratch(2 * query_rows * keys), *slopes = shares + query_rows * keys;
        const int64_t sample = item / heads, head = item % heads, there = sample * keys * stride + head * width;
        for (int64_t start = 0; start < queries; start += query_rows) {
            const int64_t rows = std::min(query_rows, queries - start), place = sample * queries + start;
            const int64_t here = place * stride + head * width;
            const float keep = start == 0 ? 0.0f : 1.0f;
            multiply('N', 'T', rows, keys, width, scale, q + here, stride, k + there, stride, 0.0f, shares, keys);
            multiply('N', 'T', rows, keys, width, 1.0f, dout + here, stride, v + there, stride, 0.0f, slopes, keys);
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
            multiply('N', 'N', rows, width, keys, scale, slopes, keys, k + there, stride, 0.0f, dq + here, stride);
            multiply('T', 'N', keys, width, rows, scale, slopes, keys, q + here, stride, keep, dk + there, stride);
            multiply('T', 'N', keys, width, rows, 1.0f, shares, keys, dout + here, stride, keep, dv + there, stride);
        }
    });
    return 0;
}

// (x (..., i), weights (o, i), bias (o)) -> x weights^T + bias; or without bias.
OPERATOR(linear) {
    const auto *x = static_cast<const float *>(parameters[0]), *weights = static_cast<const float *>(parameters[1]);
    auto *y = static_cast<float *>(parameters[count - 1]);
    const int64_t outputs = shapes[1][0], inputs = shapes[1][1], rows = count_of(shapes[0], axes[0] - 1);
    const bool has_bias = count == 4;
    std::lock_guard<std::mutex> lock(turn);
    if (has_bias) {
        const auto *bias = static_cast<const float *>(parameters[2]);
        for (int64_t row = 0; row < rows; ++row) std::copy(bias, bias + outputs, y + row * outputs);
    }
    multiply('N', 'T', rows, outputs, inputs, 1.0f, x, inputs, weights, inputs, has_bias ? 1.0f : 0.0f, y, outputs);
    return 0;
}

// (gradient of y, x, weights) -> gradient of x
OPERATOR(linear_to_input) {
    const auto *dy = static_cast<const float *>(parameters[0]), *weights = static_cast<const float *>(parameters[2]);
    const int64_t outputs = shapes[2][0], inputs = shapes[2][1], rows = count_of(shapes[1], axes[1] - 1);
    std::lock_guard<std::mutex> lock(turn);
    multiply('N', 'N', rows, inputs, outputs, 1.0f, dy, outputs, weights, inputs, 0.0f,
             static_cast<float *>(parameters[3]), inputs);
    return 0;
}

// (gradient of y, x, weights) -> gradient of the weights, and of the bias where a fifth is asked for.
OPERATOR(linear_to_weights) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    const int64_t outputs = shapes[2][0], inputs = shapes[2][1], rows = count_of(shapes[1], axes[1] - 1);
    std::lock_guard<std::mutex> lock(turn);
    multiply('T', 'N', outputs, inputs, rows, 1.0f, dy, outputs, x, inputs, 0.0f, static_cast<float *>(parameters[3]),
             inputs);
    if (count != 5) return 0;
    auto *dbias = static_cast<float *>(parameters[4]);
    parallel((outputs + columns_together - 1) / columns_together, [&](int64_t number) {
        const int64_t first = number * columns_together, columns = std::min(columns_together, outputs - first);
        double sums[columns_together] = {};
        for (int64_t row = 0; row < rows; ++row) {
            const float *from = dy + row * outputs + first;
#pragma omp simd
            for (int64_t i = 0; i < columns; ++i) sums[i] += from[i];
        }
        for (int64_t i = 0; i < columns; ++i) dbias[first + i] = static_cast<float>(sums[i]);
    });
    return 0;
}
