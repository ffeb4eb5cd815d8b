// What operators share that are made of the other files' operators: one in the place of tens or hundreds, so that MindSpore
// has fewer nodes to compile and to launch. The operators that they call are measured, so they themselves are not.

#pragma once

#include <vector>

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
DECLARE_BOTH(attention_block)
DECLARE_BOTH(attention_block_to_input)
DECLARE_BOTH(attention_block_to_weights)
DECLARE_BOTH(resnet_block)
DECLARE_BOTH(resnet_block_once)
DECLARE_BOTH(resnet_block_to_input)
DECLARE_BOTH(resnet_block_to_weights)
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

// The parameters of an operator as tensors, and settings in a tensor's place.
struct Given {
    void **parameters;
    int *axes;
    int64_t **shapes;
    Tensor operator[](int place) const { return {parameters[place], shapes[place], axes[place]}; }
};

// Tensors as the parameters of an operator: inputs, then outputs.
struct List {
    static constexpr size_t most = 32;
    void *parameters[most];
    int64_t *shapes[most];
    int axes[most], count = 0;

    // Of more tensors than fit there is none.
    explicit List(const std::vector<Tensor> &tensors) {
        if (tensors.size() > most) return;
        for (const Tensor &tensor : tensors) {
            parameters[count] = tensor.data;
            shapes[count] = const_cast<int64_t *>(tensor.shape);
            axes[count++] = tensor.axes;
        }
    }
};

// Returns 0, or what has failed.
inline int call(Function function, const std::vector<Tensor> &tensors) {
    List list(tensors);
    return list.count == 0 || function(list.count, list.parameters, list.axes, list.shapes, nullptr, nullptr, nullptr);
}

const int64_t one = 1;  // the shape of what is told apart by its place alone

inline Tensor as_tensor(void *data, const int64_t &count) { return {data, &count, 1}; }

// Hands out the parts of a piece of memory.
class Places {
  public:
    explicit Places(void *memory) : memory_(static_cast<float *>(memory)) {}
    float *take(int64_t size) {
        float *taken = memory_ == nullptr ? nullptr : memory_ + taken_;
        taken_ += size;
        return taken;
    }
    int64_t taken() const { return taken_; }

  private:
    float *const memory_;
    int64_t taken_ = 0;
};

// What the blocks' operators need, in numbers: to keep for the gradient, and without a gradient to work in. Of the block's
// parameters only shapes and settings are looked at.
int64_t kept_by_resnet_block(const Given &block, const float *settings, bool keeps);
int64_t kept_by_attention_block(const Given &layer, const float *settings);

}  // namespace native

#define BLOCK_PARAMETERS int, void **parameters, int *axes, int64_t **shapes, const char **, void *, void *
