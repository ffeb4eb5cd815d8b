// A residual block of a UNet or a VAE as one operator, and its gradients as two.
//
// Parameters of all begin with those of the block:
//
//     x (n, c, h, w), gamma, beta (c), weights (o, c, 3, 3), bias (o) of the first half, gamma, beta (o), weights
//     (o, o, 3, 3), bias (o) of the second, embedding of the time (n, e), weights (o, e) and bias (o) that project it,
//     weights (o, c, 1, 1) and bias (o) of the shortcut, settings = (groups and epsilon of the first norm, of the second,
//     whether there is an embedding, whether there is a shortcut). What there is not is given as a single number.

#include "blocks.h"

using namespace native;

namespace {

constexpr int given_to_block = 15;

struct ResnetBlock {
    const Given given;
    const Tensor x, gamma1, beta1, weights1, bias1, gamma2, beta2, weights2, bias2;
    const Tensor embedding, projection, projection_bias, shortcut, shortcut_bias;
    const bool has_embedding, has_shortcut;
    const int64_t samples, channels, outputs, three = 3, nine = 9;
    const int64_t shape_out[4], values_shape[2];
    const int64_t size_in, size_out, size_of_embedding;
    float norm1[3], norm2[3];  // as in normalization.cpp; both are followed by SiLU
    int32_t by_three[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, by_one[9] = {1, 1, 0, 0, 0, 0, 1, 1, 1};  // as in convolution.cpp
    const Tensor settings1, settings2, of_three, of_one;
    // Of the forward pass: where they lie is decided by keep_in or pass_through.
    Tensor activated1{}, middle{}, activated2{}, mean1{}, scale1{}, mean2{}, scale2{}, activated_embedding{}, values{};

    ResnetBlock(const Given &all, const float *settings)
        : given(all), x(all[0]), gamma1(all[1]), beta1(all[2]), weights1(all[3]), bias1(all[4]), gamma2(all[5]),
          beta2(all[6]), weights2(all[7]), bias2(all[8]), embedding(all[9]), projection(all[10]),
          projection_bias(all[11]), shortcut(all[12]), shortcut_bias(all[13]), has_embedding(settings[4] != 0.0f),
          has_shortcut(settings[5] != 0.0f), samples(x.shape[0]), channels(x.shape[1]), outputs(bias1.shape[0]),
          shape_out{samples, outputs, x.shape[2], x.shape[3]}, values_shape{samples, outputs},
          size_in(count_of(x.shape, 4)), size_out(count_of(shape_out, 4)),
          size_of_embedding(has_embedding ? count_of(embedding.shape, 2) : 0), norm1{settings[0], settings[1], 1.0f},
          norm2{settings[2], settings[3], 1.0f}, settings1(as_tensor(norm1, three)),
          settings2(as_tensor(norm2, three)), of_three(as_tensor(by_three, nine)), of_one(as_tensor(by_one, nine)) {}
    ResnetBlock(const ResnetBlock &) = delete;  // its tensors have its own shapes

    Tensor like_x(void *data) const { return {data, x.shape, 4}; }
    Tensor like_out(void *data) const { return {data, shape_out, 4}; }

    // Everything in a place of its own, for the gradient. Returns how many numbers there are.
    int64_t keep_in(void *kept) {
        Places places(kept);
        activated1 = like_x(places.take(size_in));
        middle = like_out(places.take(size_out));
        activated2 = like_out(places.take(size_out));
        take_small(places);
        return places.taken();
    }

    // In the result's place, and in one more, as large as the larger of input and result. Returns numbers beside the result.
    int64_t pass_through(void *result, void *kept) {
        Places places(kept);
        float *place = places.take(std::max(size_in, size_out));
        activated1 = like_x(place);
        middle = like_out(result);
        activated2 = like_out(place);
        take_small(places);
        return places.taken();
    }

    void take_small(Places &places) {
        mean1 = as_tensor(places.take(samples * channels), channels);
        scale1 = as_tensor(places.take(samples * channels), channels);
        mean2 = as_tensor(places.take(samples * outputs), outputs);
        scale2 = as_tensor(places.take(samples * outputs), outputs);
        values = {places.take(samples * outputs), values_shape, 2};
        activated_embedding = {places.take(size_of_embedding), embedding.shape, 2};
    }
};

// `spare`: for the result of the shortcut; not used where there is none.
int forward(ResnetBlock &own, void *result, void *spare, const Products &products) {
    const Tensor out = own.like_out(result);
    if (call(group_norm, {own.x, own.gamma1, own.beta1, own.settings1, own.activated1, own.mean1, own.scale1}) ||
        call(products.conv2d, {own.activated1, own.weights1, own.bias1, own.of_three, own.middle}))
        return 1;
    if (own.has_embedding &&
        (call(silu, {own.embedding, own.activated_embedding}) ||
         call(products.linear, {own.activated_embedding, own.projection, own.projection_bias, own.values}) ||
         call(add_to_channels, {own.middle, own.values, own.middle})))
        return 1;
    if (call(group_norm,
             {own.middle, own.gamma2, own.beta2, own.settings2, own.activated2, own.mean2, own.scale2}) ||
        call(products.conv2d, {own.activated2, own.weights2, own.bias2, own.of_three, out}))
        return 1;
    if (own.has_shortcut &&
        call(products.conv2d, {own.x, own.shortcut, own.shortcut_bias, own.of_one, own.like_out(spare)}))
        return 1;
    add_to(result, own.has_shortcut ? spare : own.x.data, own.size_out);
    return 0;
}

// (the block's, kept, gradient of the result) -> gradients of x, gamma, beta, gamma, beta, embedding, projected embedding,
// of what the first convolution returns, and a place as large as the larger of input and result.
int to_input(ResnetBlock &own, const Products &products) {
    const Given &given = own.given;
    own.keep_in(given[given_to_block].data);
    const Tensor dout = given[given_to_block + 1];
    const int first = given_to_block + 2;
    const Tensor dx = given[first], dembedding = given[first + 5], dvalues = given[first + 6], dmiddle = given[first + 7];
    void *spare = given[first + 8].data;
    if (call(products.conv2d_to_input,
             {dout, own.activated2, own.weights2, own.of_three, own.like_out(spare)}) ||
        call(group_norm_backward, {own.like_out(spare), own.middle, own.gamma2, own.beta2, own.mean2, own.scale2,
                                   own.settings2, dmiddle, given[first + 3], given[first + 4]}))
        return 1;
    if (own.has_embedding &&
        (call(sum_of_channels, {dmiddle, own.values, dvalues}) ||
         call(products.linear_to_input, {dvalues, own.activated_embedding, own.projection, dembedding}) ||
         call(silu_backward, {dembedding, own.embedding, dembedding})))
        return 1;
    if (call(products.conv2d_to_input,
             {dmiddle, own.activated1, own.weights1, own.of_three, own.like_x(spare)}) ||
        call(group_norm_backward, {own.like_x(spare), own.x, own.gamma1, own.beta1, own.mean1, own.scale1,
                                   own.settings1, dx, given[first + 1], given[first + 2]}))
        return 1;
    if (own.has_shortcut &&
        call(products.conv2d_to_input, {dout, own.x, own.shortcut, own.of_one, own.like_x(spare)}))
        return 1;
    add_to(dx.data, own.has_shortcut ? spare : dout.data, own.size_in);
    return 0;
}

// (the block's, kept, gradients of the result, of the projected embedding, of what the first convolution returns)
// -> gradients of weights and bias: of both halves, of the projection, of the shortcut.
int to_weights(ResnetBlock &own, const Products &products) {
    const Given &given = own.given;
    own.keep_in(given[given_to_block].data);
    const Tensor dout = given[given_to_block + 1], dvalues = given[given_to_block + 2];
    const Tensor dmiddle = given[given_to_block + 3];
    const int first = given_to_block + 4;
    if (call(products.conv2d_to_weights,
             {dmiddle, own.activated1, own.weights1, own.of_three, given[first], given[first + 1]}) ||
        call(products.conv2d_to_weights,
             {dout, own.activated2, own.weights2, own.of_three, given[first + 2], given[first + 3]}))
        return 1;
    if (own.has_embedding && call(products.linear_to_weights, {dvalues, own.activated_embedding, own.projection,
                                                               given[first + 4], given[first + 5]}))
        return 1;
    return own.has_shortcut && call(products.conv2d_to_weights, {dout, own.x, own.shortcut, own.of_one,
                                                                 given[first + 6], given[first + 7]});
}

}  // namespace

int64_t native::kept_by_resnet_block(const Given &block, const float *settings, bool keeps) {
    ResnetBlock own(block, settings);
    return keeps ? own.keep_in(nullptr) : own.pass_through(nullptr, nullptr);
}

#define RESNET_BLOCK ResnetBlock own({parameters, axes, shapes}, static_cast<const float *>(parameters[14]))
#define OPERATORS(suffix, products)                                                                \
    extern "C" int resnet_block##suffix(BLOCK_PARAMETERS) {                                        \
        RESNET_BLOCK;                                                                              \
        own.keep_in(parameters[given_to_block + 1]);                                               \
        return forward(own, parameters[given_to_block], parameters[given_to_block + 2], products); \
    }                                                                                              \
    extern "C" int resnet_block_once##suffix(BLOCK_PARAMETERS) {                                   \
        RESNET_BLOCK;                                                                              \
        void *result = parameters[given_to_block], *kept = parameters[given_to_block + 1];         \
        own.pass_through(result, kept);                                                            \
        return forward(own, result, kept, products);                                               \
    }                                                                                              \
    extern "C" int resnet_block_to_input##suffix(BLOCK_PARAMETERS) {                               \
        RESNET_BLOCK;                                                                              \
        return to_input(own, products);                                                            \
    }                                                                                              \
    extern "C" int resnet_block_to_weights##suffix(BLOCK_PARAMETERS) {                             \
        RESNET_BLOCK;                                                                              \
        return to_weights(own, products);                                                          \
    }

// What keeps for the gradient: result, kept, a place for the shortcut. What does not: result, a place.
OPERATORS(, in_float32)
OPERATORS(_bf16, in_bf16)

#undef OPERATORS
#undef RESNET_BLOCK
