// An attention layer among the pixels of a UNet or a VAE as one operator, and its gradients as two.
//
// Parameters of all begin with those of the layer:
//
//     x (n, c, h, w), gamma, beta (c) of a group norm, weights (i, c) and bias (i) of queries, of keys, of values, weights
//     (c, i) and bias (c) of the result, settings = (groups and epsilon of the norm, heads, scale of the scores).

#include "blocks.h"

using namespace native;

namespace {

constexpr int given_to_layer = 12;

struct AttentionBlock {
    const Given given;
    const Tensor x, gamma, beta;
    const int64_t samples, channels, length, inner, heads, three = 3;
    const int64_t channels_shape[3], tokens_shape[3], inner_shape[3], heads_shape[4], logs_shape[3];
    const int64_t size, inner_size;
    float norm[3], scale;
    const Tensor norm_settings, scale_setting;
    Tensor tokens{}, queries{}, keys{}, values{}, attended{}, logs{}, mean{}, inverse_deviation{};

    AttentionBlock(const Given &all, const float *settings)
        : given(all), x(all[0]), gamma(all[1]), beta(all[2]), samples(x.shape[0]), channels(x.shape[1]),
          length(x.shape[2] * x.shape[3]), inner(all[3].shape[0]), heads(static_cast<int64_t>(settings[2])),
          channels_shape{samples, channels, length}, tokens_shape{samples, length, channels},
          inner_shape{samples, length, inner}, heads_shape{samples, length, heads, inner / heads},
          logs_shape{samples, length, heads}, size(samples * channels * length), inner_size(samples * length * inner),
          norm{settings[0], settings[1], 0.0f}, scale(settings[3]), norm_settings(as_tensor(norm, three)),
          scale_setting(as_tensor(&scale, one)) {}
    AttentionBlock(const AttentionBlock &) = delete;  // its tensors have its own shapes

    // Returns how many numbers there are.
    int64_t keep_in(void *kept) {
        Places places(kept);
        tokens = like_tokens(places.take(size));
        queries = {places.take(inner_size), inner_shape, 3};
        keys = {places.take(inner_size), inner_shape, 3};
        values = {places.take(inner_size), inner_shape, 3};
        attended = {places.take(inner_size), inner_shape, 3};
        logs = {places.take(samples * length * heads), logs_shape, 3};
        mean = as_tensor(places.take(samples * channels), channels);
        inverse_deviation = as_tensor(places.take(samples * channels), channels);
        return places.taken();
    }

    Tensor by_heads(const Tensor &tensor) const { return {tensor.data, heads_shape, 4}; }
    Tensor like_tokens(void *data) const { return {data, tokens_shape, 3}; }
    Tensor like_channels(void *data) const { return {data, channels_shape, 3}; }
};

// (the layer's) -> result, kept, a place of the input's size.
int forward(AttentionBlock &own, const Products &products) {
    const Given &given = own.given;
    void *result = given[given_to_layer].data, *spare = given[given_to_layer + 2].data;
    own.keep_in(given[given_to_layer + 1].data);
    if (call(group_norm, {own.x, own.gamma, own.beta, own.norm_settings, own.like_channels(spare), own.mean,
                          own.inverse_deviation}) ||
        call(transpose, {own.like_channels(spare), own.tokens}) ||
        call(products.linear, {own.tokens, given[3], given[4], own.queries}) ||
        call(products.linear, {own.tokens, given[5], given[6], own.keys}) ||
        call(products.linear, {own.tokens, given[7], given[8], own.values}) ||
        call(products.attention, {own.by_heads(own.queries), own.by_heads(own.keys), own.by_heads(own.values),
                                  own.scale_setting, own.by_heads(own.attended), own.logs}) ||
        call(products.linear, {own.attended, given[9], given[10], own.like_tokens(spare)}) ||
        call(transpose, {own.like_tokens(spare), own.like_channels(result)}))
        return 1;
    add_to(result, own.x.data, own.size);
    return 0;
}

// (the layer's, kept, gradient of the result) -> gradients of x, gamma and beta, of what the last linear layer returns, of
// queries, keys and values, and two places: of the queries' size, and of the input's.
int to_input(AttentionBlock &own, const Products &products) {
    const Given &given = own.given;
    own.keep_in(given[given_to_layer].data);
    const Tensor dout = given[given_to_layer + 1];
    const int first = given_to_layer + 2;
    const Tensor dx = given[first], dlast = given[first + 3], dqueries = given[first + 4], dkeys = given[first + 5];
    const Tensor dvalues = given[first + 6], dattended = {given[first + 7].data, own.inner_shape, 3};
    void *spare = given[first + 8].data;
    if (call(transpose, {own.like_channels(dout.data), dlast}) ||
        call(products.linear_to_input, {dlast, own.attended, given[9], dattended}) ||
        call(products.attention_backward,
             {own.by_heads(dattended), own.by_heads(own.queries), own.by_heads(own.keys), own.by_heads(own.values),
              own.by_heads(own.attended), own.logs, own.scale_setting, own.by_heads(dqueries), own.by_heads(dkeys),
              own.by_heads(dvalues)}) ||
        call(products.linear_to_input, {dqueries, own.tokens, given[3], own.like_tokens(spare)}))
        return 1;
    void *sum = dx.data;  // one after the other, before the norm's gradient takes this place
    if (call(products.linear_to_input, {dkeys, own.tokens, given[5], own.like_tokens(sum)})) return 1;
    add_to(spare, sum, own.size);
    if (call(products.linear_to_input, {dvalues, own.tokens, given[7], own.like_tokens(sum)})) return 1;
    add_to(sum, spare, own.size);
    if (call(transpose, {own.like_tokens(sum), own.like_channels(spare)}) ||
        call(group_norm_backward, {own.like_channels(spare), own.x, own.gamma, own.beta, own.mean, own.inverse_deviation,
                                   own.norm_settings, dx, given[first + 1], given[first + 2]}))
        return 1;
    add_to(dx.data, dout.data, own.size);
    return 0;
}

// (the layer's, kept, gradients of what the last linear layer returns, of queries, keys and values) -> gradients of
// weights and bias of queries, keys, values, and of the result.
int to_weights(AttentionBlock &own, const Products &products) {
    const Given &given = own.given;
    own.keep_in(given[given_to_layer].data);
    const Tensor dlast = given[given_to_layer + 1];
    const int first = given_to_layer + 5;
    for (int number = 0; number < 3; ++number)
        if (call(products.linear_to_weights, {given[given_to_layer + 2 + number], own.tokens, given[3 + 2 * number],
                                              given[first + 2 * number], given[first + 2 * number + 1]}))
            return 1;
    return call(products.linear_to_weights, {dlast, own.attended, given[9], given[first + 6], given[first + 7]});
}

}  // namespace

int64_t native::kept_by_attention_block(const Given &layer, const float *settings) {
    return AttentionBlock(layer, settings).keep_in(nullptr);
}

#define ATTENTION_BLOCK AttentionBlock own({parameters, axes, shapes}, static_cast<const float *>(parameters[11]))
#define OPERATORS(suffix, products)                                   \
    extern "C" int attention_block##suffix(BLOCK_PARAMETERS) {        \
        ATTENTION_BLOCK;                                              \
        return forward(own, products);                                \
    }                                                                 \
    extern "C" int attention_block_to_input##suffix(BLOCK_PARAMETERS) {\
        ATTENTION_BLOCK;                                              \
        return to_input(own, products);                               \
    }                                                                 \
    extern "C" int attention_block_to_weights##suffix(BLOCK_PARAMETERS) {\
        ATTENTION_BLOCK;                                              \
        return to_weights(own, products);                             \
    }

OPERATORS(, in_float32)
OPERATORS(_bf16, in_bf16)

#undef OPERATORS
#undef ATTENTION_BLOCK
