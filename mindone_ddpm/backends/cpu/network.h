// What a UNet2DModel is made of, step by step, and where in memory the values of each step lie. unet.cpp computes it.

#pragma once

#include <array>

#include "blocks.h"

namespace native __attribute__((visibility("hidden"))) {

enum class Kind {
    convolution,  // settings: side of the kernel, stride, padding before, padding after
    resnet,       // settings: as in resnet_block.cpp
    attention,    // settings: as in attention_block.cpp
    norm,         // settings: groups, epsilon; SiLU follows
    enlarge,      // every pixel becomes four
    keep,         // the values are also kept for a join
    join,         // the values that were kept last follow as further channels
};

struct Row {
    float kind, in_bf16, settings[10];
};

constexpr int given_before_weights = 3;  // sample, embedding, plan
inline float nothing[1] = {0.0f};

// Where values lie. `lasting`: until the operator ends; `buffer`: one of two, in turns; `spare`: while one step runs.
enum class Region { sample, result, kept, lasting, buffer, spare };
struct Place {
    Region region = Region::sample;
    int64_t offset = 0;  // of a buffer: which
};

using ImageShape = std::array<int64_t, 4>;
inline int64_t size_of(const ImageShape &shape) { return count_of(shape.data(), 4); }

struct Blocks {
    Function resnet, resnet_once, resnet_to_input, resnet_to_weights, attention, attention_to_input,
        attention_to_weights;
};
constexpr Blocks blocks_in_float32 = {resnet_block,    resnet_block_once,        resnet_block_to_input,
                                      resnet_block_to_weights, attention_block, attention_block_to_input,
                                      attention_block_to_weights};
constexpr Blocks blocks_in_bf16 = {resnet_block_bf16,    resnet_block_once_bf16,        resnet_block_to_input_bf16,
                                   resnet_block_to_weights_bf16, attention_block_bf16, attention_block_to_input_bf16,
                                   attention_block_to_weights_bf16};

// A row of the plan, with the shapes and the places of what goes in and comes out.
struct Step {
    const Row &row;
    const Kind kind;
    const Products &products;
    const Blocks &blocks;
    const ImageShape in;
    const Place input;
    const int source;  // the step that the input comes from; -1 for the sample
    int first_weight = 0;
    std::vector<Tensor> weights{};
    int32_t convolution[9] = {1, 1, 0, 0, 0, 0, 1, 1, 1};  // as in convolution.cpp
    float norm[3] = {0.0f, 0.0f, 1.0f};                    // as in normalization.cpp
    ImageShape out{}, joined{};
    Place result{}, kept{}, spare{}, joined_place{};
    int64_t joined_gradient = 0;  // of a join and of a keep: where in the memory for those

    Step(const Row &given, const ImageShape &shape, Place place, int from)
        : row(given), kind(static_cast<Kind>(static_cast<int>(given.kind))),
          products(given.in_bf16 != 0.0f ? in_bf16 : in_float32),
          blocks(given.in_bf16 != 0.0f ? blocks_in_bf16 : blocks_in_float32), in(shape), input(place), source(from) {
        const auto number = [&](int which) { return static_cast<int32_t>(row.settings[which]); };
        if (kind == Kind::convolution) {
            convolution[0] = convolution[1] = number(1);
            convolution[2] = convolution[3] = number(2);
            convolution[4] = convolution[5] = number(3);
        }
        std::copy(row.settings, row.settings + 2, norm);
    }

    int64_t side() const { return static_cast<int64_t>(row.settings[0]); }
    bool has_embedding() const { return row.settings[4] != 0.0f; }
    bool has_shortcut() const { return row.settings[5] != 0.0f; }
    int count_weights() const {
        if (kind == Kind::resnet) return 8 + 2 * has_embedding() + 2 * has_shortcut();
        return kind == Kind::attention ? 10 : kind == Kind::convolution || kind == Kind::norm ? 2 : 0;
    }

    // Whether weights, embedding and what is joined fit the input.
    bool find_shape(const Tensor &embedding) {
        out = in;
        switch (kind) {
            case Kind::convolution:
                for (int axis : {2, 3})
                    out[axis] = (in[axis] + convolution[2] + convolution[4] - side()) / convolution[0] + 1;
                out[1] = weights[0].shape[0];
                return weights[0].shape[1] == in[1] &&
                       std::min(in[2], in[3]) + convolution[2] + convolution[4] >= side();
            case Kind::resnet:
                out[1] = weights[2].shape[0];
                if (has_embedding() && weights[8].shape[1] != embedding.shape[1]) return false;
                return weights[2].shape[1] == in[1];
            case Kind::attention:
                return weights[2].shape[1] == in[1];
            case Kind::norm:
                return weights[0].shape[0] == in[1];
            case Kind::enlarge:
                out[2] *= 2;
                out[3] *= 2;
                return true;
            case Kind::join:
                out[1] += joined[1];
                return joined[0] == in[0] && joined[2] == in[2] && joined[3] == in[3];
            default:
                return true;
        }
    }

    // The parameters of a block's operator: the block's, and more.
    std::vector<Tensor> block(void *x, const Tensor &embedding, const std::vector<Tensor> &more = {}) const {
        const Tensor none = as_tensor(nothing, one), settings = as_tensor(const_cast<float *>(row.settings), one);
        std::vector<Tensor> all = {{x, in.data(), 4}};
        if (kind == Kind::resnet) {
            all.insert(all.end(), weights.begin(), weights.begin() + 8);
            all.push_back(has_embedding() ? embedding : none);
            for (int place : {0, 1}) all.push_back(has_embedding() ? weights[8 + place] : none);
            for (int place : {0, 1}) all.push_back(has_shortcut() ? *(weights.end() - 2 + place) : none);
        } else {
            all.insert(all.end(), weights.begin(), weights.end());
        }
        all.push_back(settings);
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }
};

// Gradients that a block's gradient goes through, beside those of its weights, and places to work in.
struct ForGradient {
    Tensor embedding, values, middle;             // of a residual block
    Tensor last, queries, keys, attended_values;  // of an attention layer
    void *spare, *more_spare;
};

class Network {
  public:
    std::vector<Step> steps;
    bool fits = true;
    int64_t kept_size = 0, working_size = 0, gradient_size = 0;  // in numbers: all that is kept, to work in, there and back
    int64_t joined_size = 0, largest = 0;                        // gradients of what is joined; the largest input but the first

    // keeps: what the gradient needs is kept. Of the parameters only the plan and shapes are looked at.
    Network(const Given &given, bool keeps) : keeps_(keeps), embedding_(given[1]) {
        const Tensor plan = given[2];
        const auto *rows = static_cast<const Row *>(plan.data);
        const auto count = static_cast<int>(plan.shape[0]);
        steps.reserve(count);
        ImageShape shape{};
        std::copy(given[0].shape, given[0].shape + 4, shape.begin());
        fits = embedding_.shape[0] == shape[0];
        Place place{};
        std::vector<int> open;  // steps that keep values that are not joined yet
        for (int number = 0, source = -1, weight = given_before_weights; number < count && fits; ++number) {
            steps.emplace_back(rows[number], shape, place, source);
            Step &step = steps.back();
            step.first_weight = weight - given_before_weights;
            for (int more = step.count_weights(); more > 0; --more) step.weights.push_back(given[weight++]);
            if (step.kind == Kind::keep) {
                step.joined_gradient = joined_size;
                joined_size += size_of(shape);
                open.push_back(number);
            } else if (step.kind == Kind::join) {
                if (open.empty()) { fits = false; break; }
                const Step &kept = steps[open.back()];
                open.pop_back();
                step.joined = kept.in;
                step.joined_place = kept.input;
                step.joined_gradient = kept.joined_gradient;
            }
            fits = step.find_shape(embedding_);
            if (!fits || step.kind == Kind::keep) continue;
            place_step(step, number + 1 < count ? &rows[number + 1] : nullptr);
            shape = step.out;
            place = step.result;
            source = number;
        }
        fits = fits && open.empty();
        working_size = lasting_size_ + buffer_sizes_[0] + buffer_sizes_[1] + spare_size_;
        gradient_size = joined_size + 2 * largest + block_gradient_size_;
    }
    Network(const Network &) = delete;  // tensors have the steps' own shapes

    // `working`: of the forward pass; the backward pass needs none of what lies there.
    void lie_in(void *sample, void *result, void *kept, void *working) {
        regions_[0] = static_cast<float *>(sample);
        regions_[1] = static_cast<float *>(result);
        regions_[2] = static_cast<float *>(kept);
        working_ = static_cast<float *>(working);
    }

    Tensor in(const Step &step) const { return {at(step.input), step.in.data(), 4}; }
    Tensor out(const Step &step) const { return {at(step.result), step.out.data(), 4}; }
    int count_weights() const { return steps.empty() ? 0 : steps.back().first_weight + steps.back().count_weights(); }
    const Tensor &embedding() const { return embedding_; }
    bool keeps() const { return keeps_; }

    float *at(Place place) const {
        if (place.region < Region::lasting) return regions_[static_cast<int>(place.region)] + place.offset;
        if (place.region == Region::lasting) return working_ + place.offset;
        float *buffers = working_ + lasting_size_;
        if (place.region == Region::buffer) return buffers + (place.offset == 0 ? 0 : buffer_sizes_[0]);
        return buffers + buffer_sizes_[0] + buffer_sizes_[1] + place.offset;
    }

    ForGradient for_gradient(const Step &step, Places &places) const {
        const int64_t size_in = size_of(step.in), size_out = size_of(step.out);
        ForGradient found{};
        if (step.kind == Kind::resnet) {
            found.embedding = {places.take(count_of(embedding_.shape, 2)), embedding_.shape, 2};
            found.values = {places.take(step.out[0] * step.out[1]), step.out.data(), 2};
            found.middle = {places.take(size_out), step.out.data(), 4};
            found.spare = places.take(std::max(size_in, size_out));
            return found;
        }
        const int64_t inner = step.in[0] * step.in[2] * step.in[3] * step.weights[2].shape[0];
        // Their shapes are known to the operator.
        found.last = {places.take(size_in), step.in.data(), 4};
        found.queries = {places.take(inner), step.in.data(), 4};
        found.keys = {places.take(inner), step.in.data(), 4};
        found.attended_values = {places.take(inner), step.in.data(), 4};
        found.spare = places.take(inner);
        found.more_spare = places.take(size_in);
        return found;
    }

  private:
    const bool keeps_;
    const Tensor embedding_;
    int64_t lasting_size_ = 0, buffer_sizes_[2] = {0, 0}, spare_size_ = 0;
    int64_t block_gradient_size_ = 0;
    float *regions_[3] = {nullptr, nullptr, nullptr}, *working_ = nullptr;  // sample, result, kept

    void place_step(Step &step, const Row *next) {
        const int64_t size = size_of(step.out), size_in = size_of(step.in);
        largest = std::max(largest, step.source < 0 ? 0 : size_in);
        const auto is_followed_by = [&](Kind kind) { return next != nullptr && next->kind == static_cast<int>(kind); };
        const bool has_use_later = !is_followed_by(Kind::join) && !is_followed_by(Kind::enlarge);
        if (next == nullptr) {
            step.result = {Region::result, 0};
        } else if (keeps_ && has_use_later) {
            step.result = keep(size);
        } else if (!keeps_ && is_followed_by(Kind::keep)) {
            step.result = {Region::lasting, lasting_size_};
            lasting_size_ += size;
        } else {
            const int64_t which = step.input.region == Region::buffer ? 1 - step.input.offset : 0;
            step.result = {Region::buffer, which};
            buffer_sizes_[which] = std::max(buffer_sizes_[which], size);
        }
        if (step.kind == Kind::norm) {
            place_kept(step, 2 * step.in[0] * step.in[1]);
        } else if (step.kind == Kind::resnet) {
            List list(step.block(nullptr, embedding_));
            place_kept(step, kept_by_resnet_block({list.parameters, list.axes, list.shapes}, step.row.settings, keeps_));
            if (keeps_ && step.has_shortcut()) need_spare(size);
        } else if (step.kind == Kind::attention) {
            List list(step.block(nullptr, embedding_));
            const int64_t needed = kept_by_attention_block({list.parameters, list.axes, list.shapes}, step.row.settings);
            place_kept(step, needed);
            step.spare = {Region::spare, keeps_ ? 0 : needed};
            need_spare(step.spare.offset + size);
        }
        if (step.kind == Kind::resnet || step.kind == Kind::attention) {
            Places places(nullptr);
            for_gradient(step, places);
            block_gradient_size_ = std::max(block_gradient_size_, places.taken());
        }
    }

    Place keep(int64_t size) {
        kept_size += size;
        return {Region::kept, kept_size - size};
    }

    void place_kept(Step &step, int64_t size) {
        step.kept = keeps_ ? keep(size) : Place{Region::spare, 0};
        step.spare = {Region::spare, 0};
        if (!keeps_) need_spare(size);
    }

    void need_spare(int64_t size) { spare_size_ = std::max(spare_size_, size); }
};

}  // namespace native
