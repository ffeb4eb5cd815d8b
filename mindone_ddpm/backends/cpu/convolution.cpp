// Convolutions run in the oneDNN that MindSpore brings, but in the memory layout that oneDNN itself asks for; most of those
// with 3x3 weights by Winograd's algorithms (winograd.cpp).

#include <cstdlib>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "native.h"
#include "winograd.h"

using namespace native;

namespace {

size_t aligned(size_t size) { return (size + 63) / 64 * 64; }

struct Free {
    void operator()(void *memory) const { std::free(memory); }
};

// A hash of up to 64 of the numbers, from first to last: whether other weights have come to lie in the same place.
uint64_t sample_of(const void *values, size_t size) {
    const size_t count = size / sizeof(uint32_t), stride = std::max<size_t>(1, count / 64);
    uint64_t hash = 14695981039346656037u;  // FNV-1a
    for (size_t i = 0; i < count; i += stride) {
        uint32_t word;
        std::memcpy(&word, static_cast<const char *>(values) + i * sizeof(word), sizeof(word));
        hash = (hash ^ word) * 1099511628211u;
    }
    return hash;
}

size_t held_now = 0;  // bytes, of all operations

// Weights in the layout that an operation needs, by where they lie.
class HeldWeights {
  public:
    // Whether they are to be taken from here: nobody changes them, and they are here or there is room.
    bool serves(const void *weights, size_t size_laid_out) const {
        if (!weights_are_parameters || most_held == 0) return false;
        return by_place_.count(weights) > 0 || held_now + aligned(size_laid_out) <= most_held;
    }
    // These weights in their layout: `lay_out` brings them there, unless that was done before, and returns 0 or what has
    // failed. nullptr if there is no memory, or it has failed.
    template <typename LayOut>
    void *laid_out(const void *weights, size_t size, size_t size_laid_out, const LayOut &lay_out) {
        Held &held = by_place_[weights];
        const uint64_t sample = sample_of(weights, size);
        if (held.memory != nullptr && held.sample == sample) return held.memory.get();
        if (held.memory == nullptr) {
            held.memory.reset(std::aligned_alloc(64, aligned(size_laid_out)));
            if (held.memory == nullptr) return nullptr;
            held_now += held.size = aligned(size_laid_out);
        }
        const Clock clock("lay_out_weights");
        if (lay_out(held.memory.get()) != 0) return nullptr;
        held.sample = sample;
        return held.memory.get();
    }
    void release() {
        for (const auto &[_, held] : by_place_) held_now -= held.size;
        by_place_.clear();
    }

  private:
    struct Held {
        std::unique_ptr<void, Free> memory;
        size_t size = 0;
        uint64_t sample = 0;
    };
    std::map<const void *, Held> by_place_;
};

// One of the three problems of a convolution, for tensors of certain shapes.
class Operation {
  public:
    virtual ~Operation() = default;
    virtual int run(void **parameters) = 0;  // MindSpore's parameters. Returns 0, or what has failed
    virtual void release_weights() = 0;
};

// Whether the CPU multiplies whole matrices of bf16 (AMX). Without that, Winograd's algorithms in float32 take as long as
// all the products in bf16 (an estimate for AMD) or half of it (measured on Intel), and are more exact.
#if defined(__AMX_BF16__)
constexpr bool has_tiles_of_bf16 = true;
#else
constexpr bool has_tiles_of_bf16 = false;
#endif

using onednn::Argument;

// An argument of an operator: in the plain layout that MindSpore has, and in the one that oneDNN chose.
struct Port {
    int kind;
    int parameter;  // place among MindSpore's parameters
    bool is_output;
    void *plain = nullptr, *chosen = nullptr, *reorder = nullptr;  // memory, memory, primitive
    size_t offset = 0;  // of the chosen layout in the scratch memory
    size_t size = 0, plain_size = 0;  // in bytes
    HeldWeights held{};
};

class OneDnnOperation final : public Operation {
  public:
    void add(int kind, int parameter, bool is_output) { ports_.push_back(Port{kind, parameter, is_output}); }

    // `plain_descs` of the ports, in their order. Returns whether oneDNN has all that is needed.
    bool build(void *primitive_desc, const std::vector<void *> &plain_descs) {
        using namespace onednn;
        if (primitive_create(&primitive_, primitive_desc) != success) return false;
        size_t place = 0;
        for (size_t number = 0; number < ports_.size(); ++number) {
            Port &port = ports_[number];
            const void *plain = plain_descs[number];
            const void *chosen = primitive_desc_query_md(primitive_desc, query_argument, port.kind);
            if (chosen == nullptr || memory_create(&port.plain, plain, engine, nullptr) != success) return false;
            if (memory_desc_equal(plain, chosen)) continue;
            if (memory_create(&port.chosen, chosen, engine, nullptr) != success) return false;
            void *desc = nullptr;
            const void *from = port.is_output ? chosen : plain, *to = port.is_output ? plain : chosen;
            if (reorder_primitive_desc_create(&desc, from, engine, to, engine, nullptr) != success) return false;
            if (primitive_create(&port.reorder, desc) != success) return false;
            port.offset = place;
            port.size = aligned(memory_desc_get_size(chosen));
            port.plain_size = memory_desc_get_size(plain);
            place += port.size;
        }
        const void *scratchpad = primitive_desc_query_md(primitive_desc, query_argument, SCRATCHPAD);
        if (scratchpad != nullptr && memory_desc_get_size(scratchpad) > 0) {
            if (memory_create(&scratchpad_, scratchpad, engine, nullptr) != success) return false;
            scratchpad_offset_ = place;
            place += aligned(memory_desc_get_size(scratchpad));
        }
        size_ = place;
        return true;
    }

    int run(void **parameters) override {
        using namespace onednn;
        char *base = scratch(size_);
        if (size_ > 0 && base == nullptr) return 1;
        std::vector<Argument> arguments;
        for (Port &port : ports_) {
            memory_set_data_handle(port.plain, parameters[port.parameter]);
            if (port.chosen == nullptr) {
                arguments.push_back({port.kind, port.plain});
                continue;
            }
            arguments.push_back({port.kind, port.chosen});
            if (port.kind == WEIGHTS && port.held.serves(parameters[port.parameter], port.size)) {
                if (hold(port, parameters[port.parameter]) != success) return 1;
                continue;
            }
            memory_set_data_handle(port.chosen, base + port.offset);
            if (!port.is_output && reorder(port.reorder, port.plain, port.chosen) != success) return 1;
        }
        if (scratchpad_ != nullptr) {
            memory_set_data_handle(scratchpad_, base + scratchpad_offset_);
            arguments.push_back({SCRATCHPAD, scratchpad_});
        }
        int status = primitive_execute(primitive_, stream, static_cast<int>(arguments.size()), arguments.data());
        for (Port &port : ports_)
            if (status == success && port.is_output && port.chosen != nullptr)
                status = reorder(port.reorder, port.chosen, port.plain);
        return status;
    }

    void release_weights() override {
        for (Port &port : ports_) port.held.release();
    }

  private:
    // Brings weights into the chosen layout, unless that was done before.
    static int hold(Port &port, void *weights) {
        void *place = port.held.laid_out(weights, port.plain_size, port.size, [&](void *to) {
            onednn::memory_set_data_handle(port.chosen, to);
            return reorder(port.reorder, port.plain, port.chosen);
        });
        onednn::memory_set_data_handle(port.chosen, place);
        return place == nullptr;
    }

    static int reorder(void *primitive, void *from, void *to) {
        const Argument arguments[] = {{onednn::SRC, from}, {onednn::DST, to}};
        return onednn::primitive_execute(primitive, stream, 2, arguments);
    }

    std::vector<Port> ports_;
    void *primitive_ = nullptr, *scratchpad_ = nullptr;
    size_t scratchpad_offset_ = 0, size_ = 0;
};

struct Shape {
    std::vector<int64_t> sizes;
    Shape(const int64_t *from, int count) : sizes(from, from + count) {}
    void *desc(int tag, int type = onednn::f32) const {
        void *result = nullptr;
        onednn::Dims dims = {};
        std::copy(sizes.begin(), sizes.end(), dims);
        if (tag != onednn::format_any) tag = onednn::format_a + static_cast<int>(sizes.size()) - 1;
        onednn::memory_desc_create_with_tag(&result, static_cast<int>(sizes.size()), dims, type, tag);
        return result;
    }
};

// Settings: stride, padding before, padding after, dilation, each (height, width); then groups.
constexpr int num_settings = 9;
enum class Direction { forward, to_input, to_weights };

class WinogradOperation final : public Operation {
  public:
    WinogradOperation(Direction direction, const WinogradShape &shape, bool has_bias)
        : direction_(direction), shape_(shape), has_bias_(has_bias) {}

    // `shape`: with tiles of any side. Returns whether this is faster than oneDNN; then the side is the best one.
    static bool suits(Direction direction, WinogradShape &shape, const int32_t *settings) {
        constexpr int32_t only[num_settings] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
        if (!std::equal(settings, settings + num_settings, only)) return false;
        for (const int64_t side : {4, 2}) {
            shape.side = side;
            if (suits(direction, shape)) return true;
        }
        return false;
    }

    static bool suits(Direction direction, const WinogradShape &shape) {
        // With fewer channels the transformations take more time than the products save, and with fewer tiles those of
        // the weights.
        constexpr int64_t least_channels = 48, least_tiles_of_thread = 64;
        constexpr int64_t most_summed = 1 << 26;  // numbers: each thread has its own sums of the weights' gradient
        const int64_t threads = pool->get_num_threads();
        if (direction == Direction::to_weights && shape.prepared_size() * threads > most_summed) return false;
        return shape.channels % 16 == 0 && shape.outputs % 16 == 0 &&
               std::min(shape.channels, shape.outputs) >= least_channels &&
               shape.tiles() >= least_tiles_of_thread * threads;
    }

    int run(void **parameters) override {
        const auto in = [&](int place) { return static_cast<const float *>(parameters[place]); };
        const auto out = [&](int place) { return static_cast<float *>(parameters[place]); };
        if (direction_ == Direction::to_weights) {
            auto *memory = reinterpret_cast<float *>(scratch(winograd_memory_to_weights(shape_) * sizeof(float)));
            if (memory == nullptr) return 1;
            winograd_to_weights(in(0), in(1), out(4), has_bias_ ? out(5) : nullptr, shape_, memory);
            return 0;
        }
        const bool is_forward = direction_ == Direction::forward;
        const WinogradShape shape = is_forward ? shape_ : shape_.turned();
        const int64_t prepared_size = shape_.prepared_size();
        auto *memory = reinterpret_cast<float *>(scratch((winograd_memory(shape) + prepared_size) * sizeof(float)));
        if (memory == nullptr) return 1;
        if (!is_forward) {
            winograd_prepare_turned(in(2), shape_, memory);
            winograd_convolve(in(0), memory, nullptr, out(4), shape, memory + prepared_size);
            return 0;
        }
        const float *prepared = prepare(in(1), memory);
        if (prepared == nullptr) return 1;
        winograd_convolve(in(0), prepared, has_bias_ ? in(2) : nullptr, out(has_bias_ ? 4 : 3), shape,
                          memory + prepared_size);
        return 0;
    }

    void release_weights() override { held_.release(); }

  private:
    // `place`: for what is not held.
    const float *prepare(const float *weights, float *place) {
        const size_t size = shape_.channels * shape_.outputs * 9 * sizeof(float);
        const size_t prepared_size = shape_.prepared_size() * sizeof(float);
        // For large tiles they have four times their size: to read that takes as long as to make it again.
        if (shape_.side == 4 || !held_.serves(weights, prepared_size)) {
            winograd_prepare(weights, shape_, place);
            return place;
        }
        return static_cast<float *>(held_.laid_out(weights, size, prepared_size, [&](void *to) {
            winograd_prepare(weights, shape_, static_cast<float *>(to));
            return 0;
        }));
    }

    const Direction direction_;
    const WinogradShape shape_;
    const bool has_bias_;
    HeldWeights held_;
};

// `input`, `weights` and `output` are shapes; `type` is that of the factors, and what is summed from them is float32.
std::unique_ptr<Operation> make_with_onednn(Direction direction, const Shape &input, Shape weights, const Shape &output,
                                            const int32_t *settings, bool has_bias, int type) {
    using namespace onednn;
    const int64_t groups = settings[8];
    if (groups > 1) {
        weights.sizes[0] /= groups;
        weights.sizes.insert(weights.sizes.begin(), groups);
    }
    const Shape bias(&output.sizes[1], 1);
    Dims strides = {settings[0], settings[1]}, before = {settings[2], settings[3]}, after = {settings[4], settings[5]};
    Dims dilates = {settings[6] - 1, settings[7] - 1};
    void *any_input = input.desc(format_any, type), *any_weights = weights.desc(format_any, type);
    void *any_output = output.desc(format_any, type), *bias_desc = has_bias ? bias.desc(format_a) : nullptr;
    void *any_sum = (direction == Direction::forward    ? output
                     : direction == Direction::to_input ? input
                                                        : weights)
                        .desc(format_any);
    void *forward = nullptr, *desc = nullptr;
    int status = convolution_forward_primitive_desc_create(
        &forward, engine, forward_training, convolution_direct, any_input, any_weights, bias_desc,
        direction == Direction::forward ? any_sum : any_output, strides, dilates, before, after, attributes);
    if (status != success) return nullptr;
    auto operation = std::make_unique<OneDnnOperation>();
    std::vector<void *> plain;
    if (direction == Direction::forward) {
        desc = forward;
        operation->add(SRC, 0, false);
        operation->add(WEIGHTS, 1, false);
        plain = {input.desc(format_a), weights.desc(format_a)};
        if (has_bias) {
            operation->add(BIAS, 2, false);
            plain.push_back(bias_desc);
        }
        operation->add(DST, has_bias ? 4 : 3, true);
        plain.push_back(output.desc(format_a));
    } else if (direction == Direction::to_input) {
        status = convolution_backward_data_primitive_desc_create(&desc, engine, convolution_direct, any_sum,
                                                                 any_weights, any_output, strides, dilates, before,
                                                                 after, forward, attributes);
        operation->add(DIFF_DST, 0, false);
        operation->add(WEIGHTS, 2, false);
        operation->add(DIFF_SRC, 4, true);
        plain = {output.desc(format_a), weights.desc(format_a), input.desc(format_a)};
    } else {
        status = convolution_backward_weights_primitive_desc_create(&desc, engine, convolution_direct, any_input,
                                                                    any_sum, bias_desc, any_output, strides,
                                                                    dilates, before, after, forward, attributes);
        operation->add(DIFF_DST, 0, false);
        operation->add(SRC, 1, false);
        operation->add(DIFF_WEIGHTS, 4, true);
        plain = {output.desc(format_a), input.desc(format_a), weights.desc(format_a)};
        if (has_bias) {
            operation->add(DIFF_BIAS, 5, true);
            plain.push_back(bias_desc);
        }
    }
    return status == success && operation->build(desc, plain) ? std::move(operation) : nullptr;
}

std::unique_ptr<Operation> make_convolution(Direction direction, const Shape &input, const Shape &weights,
                                            const Shape &output, const int32_t *settings, bool has_bias, int type) {
    WinogradShape shape = {input.sizes[0], input.sizes[1], output.sizes[1], input.sizes[2], input.sizes[3], 0};
    const bool is_3x3 = weights.sizes[2] == 3 && weights.sizes[3] == 3;
    if (is_3x3 && !(type == onednn::bf16 && has_tiles_of_bf16) && WinogradOperation::suits(direction, shape, settings))
        return std::make_unique<WinogradOperation>(direction, shape, has_bias);
    return make_with_onednn(direction, input, weights, output, settings, has_bias, type);
}

std::map<std::vector<int64_t>, std::unique_ptr<Operation>> known;

int convolve(Direction direction, const Shape &input, const Shape &weights, const Shape &output,
             const int32_t *settings, bool has_bias, void **parameters, int type) {
    std::vector<int64_t> key = {static_cast<int64_t>(direction), has_bias, type};
    for (const Shape *shape : {&input, &weights, &output})
        key.insert(key.end(), shape->sizes.begin(), shape->sizes.end());
    key.insert(key.end(), settings, settings + num_settings);
    std::lock_guard<std::mutex> lock(turn);
    auto found = known.find(key);
    if (found == known.end())
        found = known.emplace(key, make_convolution(direction, input, weights, output, settings, has_bias, type)).first;
    return found->second == nullptr ? 1 : found->second->run(parameters);
}


int convolve_forward(int count, void **parameters, int *, int64_t **shapes, int type) {
    const bool has_bias = count == 5;
    const auto *settings = static_cast<const int32_t *>(parameters[count - 2]);
    return convolve(Direction::forward, Shape(shapes[0], 4), Shape(shapes[1], 4), Shape(shapes[count - 1], 4),
                    settings, has_bias, parameters, type);
}

int convolve_backward(Direction direction, int count, void **parameters, int *, int64_t **shapes, int type) {
    return convolve(direction, Shape(shapes[1], 4), Shape(shapes[2], 4), Shape(shapes[0], 4),
                    static_cast<const int32_t *>(parameters[3]), count == 6, parameters, type);
}

}  // namespace

thread_local bool native::weights_are_parameters = false;
size_t native::most_held = 0;

// From now on weights that are parameters do not change, until this is called with 0.
extern "C" void mindone_ddpm_hold_weights(size_t most_bytes) {
    std::lock_guard<std::mutex> lock(turn);
    most_held = most_bytes;
    if (most_bytes > 0) return;
    for (auto &[_, operation] : known)
        if (operation != nullptr) operation->release_weights();
}

#define GIVEN count, parameters, axes, shapes

// (input, weights, bias, settings) -> output; or without bias.
OPERATOR(conv2d) { return convolve_forward(GIVEN, onednn::f32); }
OPERATOR(conv2d_bf16) { return convolve_forward(GIVEN, onednn::bf16); }

// (gradient of output, input, weights, settings) -> gradient of the input.
OPERATOR(conv2d_to_input) { return convolve_backward(Direction::to_input, GIVEN, onednn::f32); }
OPERATOR(conv2d_to_input_bf16) { return convolve_backward(Direction::to_input, GIVEN, onednn::bf16); }

// (gradient of output, input, weights, settings) -> gradient of the weights, and of the bias where a sixth is asked for.
OPERATOR(conv2d_to_weights) { return convolve_backward(Direction::to_weights, GIVEN, onednn::f32); }
OPERATOR(conv2d_to_weights_bf16) { return convolve_backward(Direction::to_weights, GIVEN, onednn::bf16); }

#undef GIVEN
