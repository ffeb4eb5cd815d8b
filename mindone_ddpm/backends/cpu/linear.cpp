// Linear layers: matrix products by oneDNN.

#include "native.h"

using namespace native;

namespace {

// The factors of a product; `Number` is float or, for bf16, uint16_t. They are rounded into the shared memory.
template <typename Number>
struct Factors {
    const Number *first = nullptr, *second = nullptr;

    Factors(const void *a, int64_t a_size, const void *b, int64_t b_size) {
        Number *memory = nullptr;
        if (sizeof(Number) != sizeof(float)) {
            memory = reinterpret_cast<Number *>(scratch(sizeof(Number) * (a_size + b_size)));
            if (memory == nullptr) return;
        }
        first = factors_of(static_cast<const float *>(a), a_size, memory);
        second = factors_of(static_cast<const float *>(b), b_size, memory == nullptr ? memory : memory + a_size);
    }
};

template <typename Number>
int linear_forward(int count, void **parameters, int *axes, int64_t **shapes) {
    auto *y = static_cast<float *>(parameters[count - 1]);
    const int64_t outputs = shapes[1][0], inputs = shapes[1][1], rows = count_of(shapes[0], axes[0] - 1);
    const bool has_bias = count == 4;
    std::lock_guard<std::mutex> lock(turn);
    const Factors<Number> factors(parameters[0], rows * inputs, parameters[1], outputs * inputs);
    if (factors.first == nullptr) return 1;
    if (has_bias) {
        const auto *bias = static_cast<const float *>(parameters[2]);
        parallel(parts_of(rows, rows_together), [&](int64_t number) {
            const int64_t end = std::min(rows, (number + 1) * rows_together);
            for (int64_t row = number * rows_together; row < end; ++row)
                std::copy(bias, bias + outputs, y + row * outputs);
        });
    }
    multiply('N', 'T', rows, outputs, inputs, 1.0f, factors.first, inputs, factors.second, inputs,
             has_bias ? 1.0f : 0.0f, y, outputs);
    return 0;
}

template <typename Number>
int linear_backward_input(void **parameters, int *axes, int64_t **shapes) {
    const int64_t outputs = shapes[2][0], inputs = shapes[2][1], rows = count_of(shapes[1], axes[1] - 1);
    std::lock_guard<std::mutex> lock(turn);
    const Factors<Number> factors(parameters[0], rows * outputs, parameters[2], outputs * inputs);
    if (factors.first == nullptr) return 1;
    multiply('N', 'N', rows, inputs, outputs, 1.0f, factors.first, outputs, factors.second, inputs, 0.0f,
             static_cast<float *>(parameters[3]), inputs);
    return 0;
}

template <typename Number>
int linear_backward_weights(int count, void **parameters, int *axes, int64_t **shapes) {
    const auto *dy = static_cast<const float *>(parameters[0]);
    const int64_t outputs = shapes[2][0], inputs = shapes[2][1], rows = count_of(shapes[1], axes[1] - 1);
    std::lock_guard<std::mutex> lock(turn);
    const Factors<Number> factors(dy, rows * outputs, parameters[1], rows * inputs);
    if (factors.first == nullptr) return 1;
    multiply('T', 'N', outputs, inputs, rows, 1.0f, factors.first, outputs, factors.second, inputs, 0.0f,
             static_cast<float *>(parameters[3]), inputs);
    if (count != 5) return 0;
    auto *dbias = static_cast<float *>(parameters[4]);
    parallel(parts_of(outputs, columns_together), [&](int64_t number) {
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

}  // namespace

// (x (..., i), weights (o, i), bias (o)) -> x weights^T + bias; or without bias.
OPERATOR(linear) { return linear_forward<float>(count, parameters, axes, shapes); }
OPERATOR(linear_bf16) { return linear_forward<uint16_t>(count, parameters, axes, shapes); }

// (gradient of y, x, weights) -> gradient of x
OPERATOR(linear_to_input) { return linear_backward_input<float>(parameters, axes, shapes); }
OPERATOR(linear_to_input_bf16) { return linear_backward_input<uint16_t>(parameters, axes, shapes); }

// (gradient of y, x, weights) -> gradient of the weights, and of the bias where a fifth is asked for.
OPERATOR(linear_to_weights) { return linear_backward_weights<float>(count, parameters, axes, shapes); }
OPERATOR(linear_to_weights_bf16) { return linear_backward_weights<uint16_t>(count, parameters, axes, shapes); }
