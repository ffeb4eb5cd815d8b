// A whole UNet2DModel, from its first convolution to its last, as one operator, and its gradient as another: MindSpore's
// compiler has a single node in the place of hundreds.
//
// Parameters of all begin with
//
//     sample (n, c, h, w), embedding of the time (n, e), plan (rows, 12): see Row in network.h; weights in the order of the
//     rows: of a convolution, a residual block, or an attention layer as in convolution.cpp, resnet_block.cpp, and
//     attention_block.cpp, without those that there are not; of a norm gamma and beta.

#include "network.h"

using namespace native;

namespace {

Tensor settings_of(const Step &step) {
    static const int64_t nine = 9;
    return as_tensor(const_cast<int32_t *>(step.convolution), nine);
}

Tensor norm_settings_of(const Step &step) {
    static const int64_t three = 3;
    return as_tensor(const_cast<float *>(step.norm), three);
}

int run(const Network &network, const Step &step) {
    const Tensor x = network.in(step), y = network.out(step);
    auto *from = static_cast<float *>(x.data), *to = static_cast<float *>(y.data);
    float *kept = network.at(step.kept), *spare = network.at(step.spare);
    const std::vector<Tensor> &weights = step.weights;
    switch (step.kind) {
        case Kind::convolution:
            return call(step.products.conv2d, {x, weights[0], weights[1], settings_of(step), y});
        case Kind::resnet:
            if (!network.keeps())
                return call(step.blocks.resnet_once,
                            step.block(from, network.embedding(), {y, as_tensor(kept, one)}));
            return call(step.blocks.resnet,
                        step.block(from, network.embedding(), {y, as_tensor(kept, one), as_tensor(spare, one)}));
        case Kind::attention:
            return call(step.blocks.attention,
                        step.block(from, network.embedding(), {y, as_tensor(kept, one), as_tensor(spare, one)}));
        case Kind::norm: {
            const Tensor mean = as_tensor(kept, one), scale = as_tensor(kept + step.in[0] * step.in[1], one);
            return call(group_norm, {x, weights[0], weights[1], norm_settings_of(step), y, mean, scale});
        }
        case Kind::enlarge:
            enlarge(from, step.in.data(), to);
            return 0;
        case Kind::join:
            join(from, size_of(step.in) / step.in[0], network.at(step.joined_place),
                 size_of(step.joined) / step.in[0], step.in[0], to);
            return 0;
        default:
            return 0;
    }
}

// Where the gradients go. `joined`: those of what is joined, until the step that kept it.
struct Gradients {
    float *joined, *embedding;
    void *working, **weights;
};

// From the gradient of a step's result to that of its input, `dx`; that of the sample is not computed.
int run_back(const Network &network, const Step &step, float *dresult, float *dx, const Gradients &gradients) {
    const Tensor x = network.in(step), dout = {dresult, step.out.data(), 4}, din = {dx, step.in.data(), 4};
    const std::vector<Tensor> &weights = step.weights;
    auto *from = static_cast<float *>(x.data);
    float *kept = network.at(step.kept), *joined = gradients.joined + step.joined_gradient;
    std::vector<Tensor> dweights;
    for (size_t number = 0; number < weights.size(); ++number)
        dweights.push_back({gradients.weights[step.first_weight + number], weights[number].shape, weights[number].axes});
    Places places(gradients.working);
    switch (step.kind) {
        case Kind::convolution:
            if (call(step.products.conv2d_to_weights, {dout, x, weights[0], settings_of(step), dweights[0], dweights[1]}))
                return 1;
            if (step.source < 0) return 0;
            return call(step.products.conv2d_to_input, {dout, x, weights[0], settings_of(step), din});
        case Kind::resnet: {
            const ForGradient own = network.for_gradient(step, places);
            const Tensor kept_values = as_tensor(kept, one), spare = as_tensor(own.spare, one);
            Tensor none = as_tensor(nothing, one);
            const int shortcut = static_cast<int>(weights.size()) - 2;
            if (call(step.blocks.resnet_to_input,
                     step.block(from, network.embedding(), {kept_values, dout, din, dweights[0], dweights[1],
                                                            dweights[4], dweights[5], own.embedding, own.values,
                                                            own.middle, spare})) ||
                call(step.blocks.resnet_to_weights,
                     step.block(from, network.embedding(),
                                {kept_values, dout, own.values, own.middle, dweights[2], dweights[3], dweights[6],
                                 dweights[7], step.has_embedding() ? dweights[8] : none,
                                 step.has_embedding() ? dweights[9] : none,
                                 step.has_shortcut() ? dweights[shortcut] : none,
                                 step.has_shortcut() ? dweights[shortcut + 1] : none})))
                return 1;
            if (step.has_embedding())
                add_to(gradients.embedding, own.embedding.data, count_of(network.embedding().shape, 2));
            return 0;
        }
        case Kind::attention: {
            const ForGradient own = network.for_gradient(step, places);
            const Tensor kept_values = as_tensor(kept, one);
            if (call(step.blocks.attention_to_input,
                     step.block(from, network.embedding(),
                                {kept_values, dout, din, dweights[0], dweights[1], own.last, own.queries, own.keys,
                                 own.attended_values, as_tensor(own.spare, one), as_tensor(own.more_spare, one)})))
                return 1;
            std::vector<Tensor> more = {kept_values, own.last, own.queries, own.keys, own.attended_values};
            more.insert(more.end(), dweights.begin() + 2, dweights.end());
            return call(step.blocks.attention_to_weights, step.block(from, network.embedding(), more));
        }
        case Kind::norm: {
            const Tensor mean = as_tensor(kept, one), scale = as_tensor(kept + step.in[0] * step.in[1], one);
            return call(group_norm_backward, {dout, x, weights[0], weights[1], mean, scale, norm_settings_of(step), din,
                                              dweights[0], dweights[1]});
        }
        case Kind::enlarge:
            reduce(dresult, step.in.data(), dx);
            return 0;
        case Kind::join:
            separate(dresult, size_of(step.in) / step.in[0], size_of(step.joined) / step.in[0], step.in[0], dx, joined);
            return 0;
        default:
            add_to(dresult, joined, size_of(step.in));
            return 0;
    }
}

int forward(int count, void **parameters, int *axes, int64_t **shapes, bool keeps) {
    Network network({parameters, axes, shapes}, keeps);
    if (!network.fits) return 1;
    network.lie_in(parameters[0], parameters[count - 3], parameters[count - 2], parameters[count - 1]);
    weights_are_parameters = !keeps;
    int failed = 0;
    for (const Step &step : network.steps)
        if (failed == 0) failed = run(network, step);
    weights_are_parameters = false;
    return failed;
}

int backward(int, void **parameters, int *axes, int64_t **shapes) {
    Network network({parameters, axes, shapes}, true);
    if (!network.fits) return 1;
    const int kept = given_before_weights + network.count_weights(), first_output = kept + 2;
    network.lie_in(parameters[0], nullptr, parameters[kept], nullptr);
    auto *dfirst = static_cast<float *>(parameters[first_output]);
    auto *dembedding = static_cast<float *>(parameters[first_output + 1]);
    Places places(parameters[first_output + 2]);
    float *joined = places.take(network.joined_size);
    float *buffers[2] = {places.take(network.largest), places.take(network.largest)};
    const Gradients gradients = {joined, dembedding, places.take(0), parameters + first_output + 3};
    std::fill_n(dembedding, count_of(network.embedding().shape, 2), 0.0f);

    auto *gradient = static_cast<float *>(parameters[kept + 1]);
    int which = 0;
    for (auto step = network.steps.rbegin(); step != network.steps.rend(); ++step) {
        float *dx = gradient;
        if (step->kind != Kind::keep) dx = step->source == 0 ? dfirst : buffers[which = 1 - which];
        if (run_back(network, *step, gradient, dx, gradients)) return 1;
        gradient = dx;
    }
    return 0;
}

}  // namespace

// (the parameters) -> result, what is kept for the gradient, a place to work in.
extern "C" int unet(PARAMETERS, const char **, void *, void *) { return forward(count, parameters, axes, shapes, true); }

// The same without a gradient: nothing is kept.
extern "C" int unet_once(PARAMETERS, const char **, void *, void *) { return forward(count, parameters, axes, shapes, false); }

// (the parameters, what is kept, gradient of the result) -> gradients of the first convolution's result and of the
// embedding, a place to work in, gradients of the weights.
extern "C" int unet_backward(PARAMETERS, const char **, void *, void *) { return backward(count, parameters, axes, shapes); }

// How many numbers are kept, are to work in, and to work in for the gradient; and the result's shape. Of the parameters the
// plan and the shapes are looked at. Returns 1 where they do not fit one another.
extern "C" int mindone_ddpm_unet_sizes(void **parameters, int *axes, int64_t **shapes, int keeps, int64_t *found) {
    Network network({parameters, axes, shapes}, keeps != 0);
    if (!network.fits) return 1;
    found[0] = network.kept_size;
    found[1] = network.working_size;
    found[2] = network.gradient_size;
    std::copy_n(network.steps.back().out.begin(), 4, found + 3);
    return 0;
}
