// What operators share that are made of the other files' operators: one in the place of ten, so that MindSpore has fewer
// nodes to compile and to launch. The operators that they call are measured, so they themselves are not.

#pragma once

#include <initializer_list>

#include "native.h"

extern "C" {
#define DECLARE(name) int name(PARAMETERS, const char **, void *, void *);
#define DECLARE_BOTH(name) DECLARE(name) DECLARE(name##_bf16)
DECLARE_BOTH(attention)
DECLARE_BOTH(attention_backward)
DECLARE_BOTH(conv2d)
DECLARE_BOTH(conv2d_to_input)
DECLARE_BOTH(conv2d_to_weights)
DECLARE_BOTH(linear)
DECLARE_BOTH(linear_to_input)
DECLARE_BOTH(linear_to_weights)
DECLARE(add_to_channels)
DECLARE(group_norm)
DECLARE(group_norm_backward)
DECLARE(silu)
DECLARE(silu_backward)
DECLARE(sum_of_channels)
DECLARE(transpose)
#undef DECLARE_BOTH
#undef DECLARE
}

namespace native __attribute__((visibility("hidden"))) {

struct Tensor {
    void *data;
    const int64_t *shape;
    int axes;
};

using Function = int (*)(PARAMETERS, const char **, void *, void *);

// The operators with products, in one precision.
struct Products {
    Function attention, attention_backward, conv2d, conv2d_to_input, conv2d_to_weights, linear, linear_to_input,
        linear_to_weights;
};

constexpr Products in_float32 = {::attention,         ::attention_backward, ::conv2d,          ::conv2d_to_input,
                                 ::conv2d_to_weights, ::linear,             ::linear_to_input, ::linear_to_weights};
constexpr Products in_bf16 = {attention_bf16,         attention_backward_bf16, conv2d_bf16,          conv2d_to_input_bf16,
                              conv2d_to_weights_bf16, linear_bf16,             linear_to_input_bf16, linear_to_weights_bf16};

// An operator on tensors: inputs, then outputs. Returns 0, or what has failed.
inline int call(Function function, std::initializer_list<Tensor> tensors) {
    void *parameters[16];
    int64_t *shapes[16];
    int axes[16], count = 0;
    for (const Tensor &tensor : tensors) {
        parameters[count] = tensor.data;
        shapes[count] = const_cast<int64_t *>(tensor.shape);
        axes[count++] = tensor.axes;
    }
    return function(count, parameters, axes, shapes, nullptr, nullptr, nullptr);
}

// The parameters of an operator as tensors, and settings in a tensor's place.
struct Given {
    void **parameters;
    int *axes;
    int64_t **shapes;
    Tensor operator[](int place) const { return {parameters[place], shapes[place], axes[place]}; }
};

inline Tensor as_tensor(void *data, const int64_t &count) { return {data, &count, 1}; }

// Hands out the parts of a piece of memory.
class Places {
  public:
    explicit Places(void *memory) : next_(static_cast<float *>(memory)) {}
    float *take(int64_t size) {
        float *taken = next_;
        next_ += size;
        return taken;
    }

  private:
    float *next_;
};

inline void add_to(void *to, const void *more, int64_t size) {
    auto *result = static_cast<float *>(to);
    const auto *values = static_cast<const float *>(more);
    const Clock clock("add");
    std::lock_guard<std::mutex> lock(turn);
    parallel((size + block - 1) / block, [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) result[i] += values[i];
    });
}

}  // namespace native

#define BLOCK_PARAMETERS int, void **parameters, int *axes, int64_t **shapes, const char **, void *, void *
