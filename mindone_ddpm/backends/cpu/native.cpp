// The hot operators of a UNet in float32 on an x86-64 or ARM processor, for MindSpore's `Custom` operator.
//
// Convolutions run in the oneDNN that MindSpore brings, but in the memory layout that oneDNN itself asks for; the rest
// is written out here. native.py compiles this file once on the user's machine and loads it. Every function has the
// signature that MindSpore documents for its "aot" operators: inputs come first, outputs last, 0 means success.
//
// Sums are taken in a fixed order, so that the same input gives the same bits whatever the number of threads (in the
// convolutions, oneDNN keeps that promise for a fixed number of threads).

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

// --- what of oneDNN's C interface (version 3) is used here; constants as in its dnnl_types.h --------------------------

namespace onednn {

using Dims = int64_t[12];
struct Argument {
    int kind;
    void *memory;
};
enum { isa_default = 0 };
enum { success = 0, cpu = 1, f32 = 3, format_any = 1, format_a = 2, scratchpad_user = 1, query_argument = 255 };
enum { forward_training = 64, convolution_direct = 1, convolution_auto = 3 };
enum { SRC = 1, DST = 17, WEIGHTS = 33, BIAS = 41, SCRATCHPAD = 80 };
enum { DIFF_SRC = 129, DIFF_DST = 145, DIFF_WEIGHTS = 161, DIFF_BIAS = 169 };

struct Version {
    int major, minor, patch;
};

// What oneDNN calls to run its work on our threads. The order of the methods is part of its binary interface.
struct ThreadPool {
    virtual int get_num_threads() const = 0;
    virtual bool get_in_parallel() const = 0;
    virtual void parallel_for(int count, const std::function<void(int, int)> &body) = 0;
    virtual uint64_t get_flags() const = 0;
    virtual void wait() = 0;
    virtual ~ThreadPool() = default;
};

#define FUNCTIONS(X)                                                                                                  \
    X(int, engine_create, void **, int, size_t)                                                                       \
    X(int, threadpool_interop_stream_create, void **, void *, void *)                                                 \
    X(int, memory_desc_create_with_tag, void **, int, const int64_t *, int, int)                                      \
    X(int, memory_desc_equal, const void *, const void *)                                                             \
    X(size_t, memory_desc_get_size, const void *)                                                                     \
    X(int, memory_create, void **, const void *, void *, void *)                                                      \
    X(int, memory_set_data_handle, void *, void *)                                                                    \
    X(int, primitive_attr_create, void **)                                                                            \
    X(int, primitive_attr_set_scratchpad_mode, void *, int)                                                           \
    X(const void *, primitive_desc_query_md, const void *, int, int)                                                  \
    X(int, primitive_create, void **, const void *)                                                                   \
    X(int, primitive_execute, const void *, void *, int, const Argument *)                                            \
    X(int, reorder_primitive_desc_create, void **, const void *, void *, const void *, void *, const void *)          \
    X(int, convolution_forward_primitive_desc_create, void **, void *, int, int, const void *, const void *,          \
      const void *, const void *, const int64_t *, const int64_t *, const int64_t *, const int64_t *, const void *)   \
    X(int, convolution_backward_data_primitive_desc_create, void **, void *, int, const void *, const void *,         \
      const void *, const int64_t *, const int64_t *, const int64_t *, const int64_t *, const void *, const void *)   \
    X(int, convolution_backward_weights_primitive_desc_create, void **, void *, int, const void *, const void *,      \
      const void *, const void *, const int64_t *, const int64_t *, const int64_t *, const int64_t *, const void *,   \
      const void *)                                                                                                   \
    X(int, threadpool_interop_sgemm, char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,            \
      const float *, int64_t, float, float *, int64_t, void *)

#define DECLARE(result, name, ...) static result (*name)(__VA_ARGS__);
FUNCTIONS(DECLARE)
#undef DECLARE

#ifndef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0  // of glibc alone
#endif

// `is_copy`: a file of its own beside MindSpore's, and so a library with settings of its own, if it looks for its own
// functions first. It may use all instructions of the processor, whatever the environment says for MindSpore's.
static bool load(const char *path, bool is_copy) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | (is_copy ? RTLD_DEEPBIND : 0));
    if (library == nullptr) return false;
    auto version = reinterpret_cast<const Version *(*)()>(dlsym(library, "dnnl_version"));
    if (version == nullptr || version()->major != 3) return false;
#define LOAD(result, name, ...)                                                                   \
    name = reinterpret_cast<result (*)(__VA_ARGS__)>(dlsym(library, "dnnl_" #name));                \
    if (name == nullptr) return false;
    FUNCTIONS(LOAD)
#undef LOAD
    if (is_copy) {
        auto set_max_cpu_isa = reinterpret_cast<int (*)(int)>(dlsym(library, "dnnl_set_max_cpu_isa"));
        return set_max_cpu_isa != nullptr && set_max_cpu_isa(isa_default) == success;
    }
    return true;
}

}  // namespace onednn

// --- threads ------------------------------------------------------------------------------------------------------

namespace {

thread_local bool in_parallel = false;

// A fixed set of threads that share the turns of one loop at a time. Between loops they spin for a moment, because the
// next operator mostly comes at once, and then sleep.
class Pool final : public onednn::ThreadPool {
  public:
    explicit Pool(int count) : count_(count) {
        for (int number = 1; number < count; ++number) std::thread([this] { serve(); }).detach();
    }

    int get_num_threads() const override { return count_; }
    bool get_in_parallel() const override { return in_parallel; }
    uint64_t get_flags() const override { return 0; }
    void wait() override {}

    void parallel_for(int count, const std::function<void(int, int)> &body) override {
        if (count <= 1 || count_ == 1 || in_parallel) {
            for (int number = 0; number < count; ++number) body(number, count);
            return;
        }
        body_ = &body;
        turns_ = count;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(count_ - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            round_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        take_turns();
        while (busy_.load(std::memory_order_acquire) != 0) pause();
    }

  private:
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }

    void take_turns() {
        in_parallel = true;
        for (int turn; (turn = next_.fetch_add(1, std::memory_order_relaxed)) < turns_;) (*body_)(turn, turns_);
        in_parallel = false;
    }

    void serve() {
        uint64_t seen = 0;
        for (;;) {
            for (int spins = 0; spins < 2000 && round_.load(std::memory_order_acquire) == seen; ++spins) pause();
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
            }
            seen = round_.load(std::memory_order_acquire);
            take_turns();
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    const int count_;
    const std::function<void(int, int)> *body_ = nullptr;
    int turns_ = 0;
    std::atomic<int> next_{0}, busy_{0};
    std::atomic<uint64_t> round_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

Pool *pool = nullptr;
bool started = false;  // pool, engine and stream are there
void *engine = nullptr, *stream = nullptr, *attributes = nullptr;
// MindSpore may start operators that do not wait for each other from several threads: here they take turns.
std::mutex turn;

// Memory shared by all operators for what lives only while one of them runs.
char *scratch(size_t size) {
    static char *memory = nullptr;
    static size_t capacity = 0;
    if (size > capacity) {
        std::free(memory);
        capacity = (size + 4095) / 4096 * 4096;
        memory = static_cast<char *>(std::aligned_alloc(4096, capacity));
        if (memory == nullptr) capacity = 0;
    }
    return memory;
}

size_t aligned(size_t size) { return (size + 63) / 64 * 64; }

void parallel(int64_t count, const std::function<void(int64_t)> &body) {
    pool->parallel_for(static_cast<int>(count), [&](int number, int) { body(number); });
}

// --- convolution ----------------------------------------------------------------------------------------------------

using onednn::Argument;

// An argument of an operator: in the plain layout that MindSpore has, and in the one that oneDNN chose.
struct Port {
    int kind;
    int parameter;  // place among MindSpore's parameters
    bool is_output;
    void *plain = nullptr, *chosen = nullptr, *reorder = nullptr;  // memory, memory, primitive
    size_t offset = 0;  // of the chosen layout in the scratch memory
};

class Operation {
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
            place += aligned(memory_desc_get_size(chosen));
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

    int run(void **parameters) {
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
            memory_set_data_handle(port.chosen, base + port.offset);
            arguments.push_back({port.kind, port.chosen});
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

  private:
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
    void *desc(int tag) const {
        void *result = nullptr;
        onednn::Dims dims = {};
        std::copy(sizes.begin(), sizes.end(), dims);
        if (tag != onednn::format_any) tag = onednn::format_a + static_cast<int>(sizes.size()) - 1;
        onednn::memory_desc_create_with_tag(&result, static_cast<int>(sizes.size()), dims, onednn::f32, tag);
        return result;
    }
};

// Settings: stride, padding before, padding after, dilation, each (height, width); then groups.
constexpr int num_settings = 9;
enum class Direction { forward, to_input, to_weights };

// The three problems of one convolution. `input`, `weights` and `output` are shapes.
std::unique_ptr<Operation> make_convolution(Direction direction, const Shape &input, Shape weights, const Shape &output,
                                            const int32_t *settings, bool has_bias) {
    using namespace onednn;
    const int64_t groups = settings[8];
    if (groups > 1) {
        weights.sizes[0] /= groups;
        weights.sizes.insert(weights.sizes.begin(), groups);
    }
    const Shape bias(&output.sizes[1], 1);
    Dims strides = {settings[0], settings[1]}, before = {settings[2], settings[3]}, after = {settings[4], settings[5]};
    Dims dilates = {settings[6] - 1, settings[7] - 1};
    void *any_input = input.desc(format_any), *any_weights = weights.desc(format_any);
    void *any_output = output.desc(format_any), *bias_desc = has_bias ? bias.desc(format_a) : nullptr;
    void *forward = nullptr, *desc = nullptr;
    int status = convolution_forward_primitive_desc_create(&forward, engine, forward_training, convolution_direct,
                                                           any_input, any_weights, bias_desc, any_output, strides,
                                                           dilates, before, after, attributes);
    if (status != success) return nullptr;
    auto operation = std::make_unique<Operation>();
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
        status = convolution_backward_data_primitive_desc_create(&desc, engine, convolution_direct, any_input,
                                                                 any_weights, any_output, strides, dilates, before,
                                                                 after, forward, attributes);
        operation->add(DIFF_DST, 0, false);
        operation->add(WEIGHTS, 2, false);
        operation->add(DIFF_SRC, 4, true);
        plain = {output.desc(format_a), weights.desc(format_a), input.desc(format_a)};
    } else {
        status = convolution_backward_weights_primitive_desc_create(&desc, engine, convolution_direct, any_input,
                                                                    any_weights, bias_desc, any_output, strides,
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

int convolve(Direction direction, const Shape &input, const Shape &weights, const Shape &output,
             const int32_t *settings, bool has_bias, void **parameters) {
    static std::map<std::vector<int64_t>, std::unique_ptr<Operation>> known;
    std::vector<int64_t> key = {static_cast<int64_t>(direction), has_bias};
    for (const Shape *shape : {&input, &weights, &output})
        key.insert(key.end(), shape->sizes.begin(), shape->sizes.end());
    key.insert(key.end(), settings, settings + num_settings);
    std::lock_guard<std::mutex> lock(turn);
    auto found = known.find(key);
    if (found == known.end())
        found = known.emplace(key, make_convolution(direction, input, weights, output, settings, has_bias)).first;
    return found->second == nullptr ? 1 : found->second->run(parameters);
}

// --- element by element ---------------------------------------------------------------------------------------------

// e^x with a relative error below 2e-7, in a form that compilers turn into vector instructions: 2^n times a polynomial
// on [-ln 2 / 2, ln 2 / 2].
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float n = std::nearbyintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

constexpr int64_t block = 4096;  // elements of a partial sum
constexpr int64_t rows_together = 16, columns_together = 32;  // of a matrix, in one turn of a thread

int64_t count_of(const int64_t *shape, int axes) {
    int64_t count = 1;
    for (int axis = 0; axis < axes; ++axis) count *= shape[axis];
    return count;
}

// In float by blocks, and these in double.
double sum_of(const float *values, int64_t size) {
    double total = 0.0;
    for (int64_t start = 0; start < size; start += block) {
        const int64_t end = std::min(size, start + block);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = start; i < end; ++i) sum += values[i];
        total += sum;
    }
    return total;
}

// Where the time goes, for who asks: calls and seconds of each operator.
struct Spent {
    int64_t calls = 0;
    double seconds = 0.0;
};
std::map<std::string, Spent> spent;
std::mutex spent_mutex;

class Clock {
  public:
    explicit Clock(const char *name) : name_(name), start_(std::chrono::steady_clock::now()) {}
    ~Clock() {
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
        std::lock_guard<std::mutex> lock(spent_mutex);
        Spent &own = spent[name_];
        ++own.calls;
        own.seconds += passed.count();
    }

  private:
    const char *name_;
    const std::chrono::steady_clock::time_point start_;
};

}  // namespace

#define PARAMETERS int count, void **parameters, int *axes, int64_t **shapes
#define OPERATOR(name)                                                                       \
    static int name##_body(PARAMETERS);                                                      \
    extern "C" int name(PARAMETERS, const char **, void *, void *) {                         \
        if (!started) return 1; /* a second copy of this library, that nobody has started */ \
        const Clock clock(#name);                                                            \
        return name##_body(count, parameters, axes, shapes);                                 \
    }                                                                                        \
    static int name##_body([[maybe_unused]] int count, void **parameters,                    \
                           [[maybe_unused]] int *axes, int64_t **shapes)

// Lines of "operator calls seconds" since the last time, as many as fit.
extern "C" void mindone_ddpm_times(char *text, size_t size) {
    std::lock_guard<std::mutex> lock(spent_mutex);
    std::string lines;
    for (const auto &[name, own] : spent)
        lines += name + " " + std::to_string(own.calls) + " " + std::to_string(own.seconds) + "\n";
    spent.clear();
    std::snprintf(text, size, "%s", lines.c_str());
}

extern "C" int mindone_ddpm_start(const char *onednn_path, int is_copy, int threads) {
    if (started) return 0;
    using namespace onednn;
    if (!load(onednn_path, is_copy != 0)) return 1;
    if (pool == nullptr) pool = new Pool(std::max(1, threads));
    if (engine_create(&engine, cpu, 0) != success) return 2;
    if (threadpool_interop_stream_create(&stream, engine, pool) != success) return 3;
    if (primitive_attr_create(&attributes) != success) return 4;
    if (primitive_attr_set_scratchpad_mode(attributes, scratchpad_user) != success) return 5;
    started = true;
    return 0;
}

// (input, weights, bias, settings) -> output; or without bias.
OPERATOR(conv2d) {
    const bool has_bias = count == 5;
    const auto *settings = static_cast<const int32_t *>(parameters[count - 2]);
    return convolve(Direction::forward, Shape(shapes[0], 4), Shape(shapes[1], 4), Shape(shapes[count - 1], 4),
                    settings, has_bias, parameters);
}

// (gradient of output, input, weights, settings) -> gradient of the input.
OPERATOR(conv2d_to_input) {
    return convolve(Direction::to_input, Shape(shapes[1], 4), Shape(shapes[2], 4), Shape(shapes[0], 4),
                    static_cast<const int32_t *>(parameters[3]), false, parameters);
}

// (gradient of output, input, weights, settings) -> gradient of the weights, and of the bias where a sixth is asked for.
OPERATOR(conv2d_to_weights) {
    return convolve(Direction::to_weights, Shape(shapes[1], 4), Shape(shapes[2], 4), Shape(shapes[0], 4),
                    static_cast<const int32_t *>(parameters[3]), count == 6, parameters);
}

// (x, gamma, beta, settings = (groups, epsilon, ends in x sigmoid(x))) -> y, mean, 1 / standard deviation, the last two of
// each sample's groups.
OPERATOR(group_norm) {
    const auto *x = static_cast<const float *>(parameters[0]), *gamma = static_cast<const float *>(parameters[1]);
    const auto *beta = static_cast<const float *>(parameters[2]), *settings = static_cast<const float *>(parameters[3]);
    auto *y = static_cast<float *>(parameters[4]), *means = static_cast<float *>(parameters[5]);
    auto *scales = static_cast<float *>(parameters[6]);
    const int64_t samples = shapes[0][0], channels = shapes[0][1], places = count_of(shapes[0] + 2, axes[0] - 2);
    const int64_t groups = static_cast<int64_t>(settings[0]), in_group = channels / groups, size = in_group * places;
    const bool activates = settings[2] != 0.0f;
    std::lock_guard<std::mutex> lock(turn);
    parallel(samples * groups, [&](int64_t item) {
        const float *from = x + item * size;
        float *to = y + item * size;
        const float mean = static_cast<float>(sum_of(from, size) / size);
        double squares = 0.0;
        for (int64_t start = 0; start < size; start += block) {
            const int64_t end = std::min(size, start + block);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; ++i) sum += (from[i] - mean) * (from[i] - mean);
            squares += sum;
        }
        const float scale = static_cast<float>(1.0 / std::sqrt(squares / size + settings[1]));
        means[item] = mean;
        scales[item] = scale;
        for (int64_t part = 0; part < in_group; ++part) {
            const int64_t channel = item % groups * in_group + part;
            const float factor = scale * gamma[channel], shift = beta[channel] - mean * factor;
            const float *row = from + part * places;
            float *out = to + part * places;
#pragma omp simd
            for (int64_t i = 0; i < places; ++i) out[i] = row[i] * factor + shift;
            if (!activates) continue;
#pragma omp simd
            for (int64_t i = 0; i < places; ++i) out[i] *= sigmoid(out[i]);
        }
    });
    return 0;
}

// (gradient of y, x, gamma, mean, scale, settings) -> gradients of x, gamma and beta.
OPERATOR(group_norm_backward) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    const auto *gamma = static_cast<const float *>(parameters[2]), *beta = static_cast<const float *>(parameters[3]);
    const auto *means = static_cast<const float *>(parameters[4]), *scales = static_cast<const float *>(parameters[5]);
    const auto *settings = static_cast<const float *>(parameters[6]);
    auto *dx = static_cast<float *>(parameters[7]), *dgamma = static_cast<float *>(parameters[8]);
    auto *dbeta = static_cast<float *>(parameters[9]);
    const int64_t samples = shapes[1][0], channels = shapes[1][1], places = count_of(shapes[1] + 2, axes[1] - 2);
    const int64_t groups = static_cast<int64_t>(settings[0]), in_group = channels / groups, size = in_group * places;
    std::lock_guard<std::mutex> lock(turn);
    const bool activates = settings[2] != 0.0f;
    auto *sums = reinterpret_cast<double *>(scratch(sizeof(double) * 2 * samples * channels));
    if (sums == nullptr) return 1;
    parallel(samples * groups, [&](int64_t item) {
        const int64_t sample = item / groups, first = item % groups * in_group;
        const float mean = means[item], scale = scales[item];
        double whole = 0.0, weighted = 0.0;  // sums of gamma dy and of gamma dy (x - mean) scale
        for (int64_t part = 0; part < in_group; ++part) {
            const float *g = dy + item * size + part * places, *row = x + item * size + part * places;
            const int64_t channel = first + part;
            if (activates) {  // the gradient before the activation, kept where the result will be
                const float factor = scale * gamma[channel], shift = beta[channel] - mean * factor;
                float *before = dx + item * size + part * places;
#pragma omp simd
                for (int64_t i = 0; i < places; ++i) {
                    const float value = row[i] * factor + shift, s = sigmoid(value);
                    before[i] = g[i] * (s * (1.0f + value * (1.0f - s)));
                }
                g = before;
            }
            double sum = 0.0, product = 0.0;
            for (int64_t start = 0; start < places; start += block) {
                const int64_t end = std::min(places, start + block);
                float partial = 0.0f, partial_product = 0.0f;
#pragma omp simd reduction(+ : partial, partial_product)
                for (int64_t i = start; i < end; ++i) {
                    partial += g[i];
                    partial_product += g[i] * (row[i] - mean);
                }
                sum += partial;
                product += partial_product;
            }
            product *= scale;
            sums[2 * (sample * channels + channel)] = sum;
            sums[2 * (sample * channels + channel) + 1] = product;
            whole += sum * gamma[channel];
            weighted += product * gamma[channel];
        }
        const float slope = static_cast<float>(-weighted / size) * scale * scale;
        const float level = static_cast<float>(-whole / size) * scale - slope * mean;
        for (int64_t part = 0; part < in_group; ++part) {
            const float *g = (activates ? dx : dy) + item * size + part * places;
            const float *row = x + item * size + part * places;
            float *out = dx + item * size + part * places;
            const float factor = gamma[first + part] * scale;
#pragma omp simd
            for (int64_t i = 0; i < places; ++i) out[i] = g[i] * factor + row[i] * slope + level;
        }
    });
    for (int64_t channel = 0; channel < channels; ++channel) {
        double sum = 0.0, product = 0.0;
        for (int64_t sample = 0; sample < samples; ++sample) {
            sum += sums[2 * (sample * channels + channel)];
            product += sums[2 * (sample * channels + channel) + 1];
        }
        dbeta[channel] = static_cast<float>(sum);
        dgamma[channel] = static_cast<float>(product);
    }
    return 0;
}

// (x (..., c), gamma (c), beta (c), epsilon) -> y, and each row's mean and 1 / standard deviation.
OPERATOR(layer_norm) {
    const auto *x = static_cast<const float *>(parameters[0]), *gamma = static_cast<const float *>(parameters[1]);
    const auto *beta = static_cast<const float *>(parameters[2]);
    const float epsilon = *static_cast<const float *>(parameters[3]);
    auto *y = static_cast<float *>(parameters[4]), *means = static_cast<float *>(parameters[5]);
    auto *scales = static_cast<float *>(parameters[6]);
    const int64_t width = shapes[1][0], rows = count_of(shapes[0], axes[0] - 1);
    std::lock_guard<std::mutex> lock(turn);
    parallel((rows + rows_together - 1) / rows_together, [&](int64_t number) {
        const int64_t end = std::min(rows, (number + 1) * rows_together);
        for (int64_t row = number * rows_together; row < end; ++row) {
            const float *from = x + row * width;
            float *to = y + row * width;
            double sum = 0.0, squares = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; ++i) sum += from[i];
            const float mean = static_cast<float>(sum / width);
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(from[i] - mean) * (from[i] - mean);
            const float scale = static_cast<float>(1.0 / std::sqrt(squares / width + epsilon));
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) to[i] = (from[i] - mean) * scale * gamma[i] + beta[i];
            means[row] = mean;
            scales[row] = scale;
        }
    });
    return 0;
}

// (gradient of y, x, gamma, mean, scale) -> gradients of x, gamma and beta.
OPERATOR(layer_norm_backward) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    const auto *gamma = static_cast<const float *>(parameters[2]), *means = static_cast<const float *>(parameters[3]);
    const auto *scales = static_cast<const float *>(parameters[4]);
    auto *dx = static_cast<float *>(parameters[5]), *dgamma = static_cast<float *>(parameters[6]);
    auto *dbeta = static_cast<float *>(parameters[7]);
    const int64_t width = shapes[2][0], rows = count_of(shapes[1], axes[1] - 1);
    std::lock_guard<std::mutex> lock(turn);
    parallel((rows + rows_together - 1) / rows_together, [&](int64_t number) {
        const int64_t end = std::min(rows, (number + 1) * rows_together);
        for (int64_t row = number * rows_together; row < end; ++row) {
            const float *g = dy + row * width, *from = x + row * width, mean = means[row], scale = scales[row];
            float *to = dx + row * width;
            double whole = 0.0, weighted = 0.0;  // sums of gamma dy and of gamma dy (x - mean)
#pragma omp simd reduction(+ : whole, weighted)
            for (int64_t i = 0; i < width; ++i) {
                const double part = static_cast<double>(g[i]) * gamma[i];
                whole += part;
                weighted += part * (from[i] - mean);
            }
            const float level = static_cast<float>(whole / width);
            const float slope = static_cast<float>(weighted / width) * scale * scale;
#pragma omp simd
            for (int64_t i = 0; i < width; ++i)
                to[i] = scale * (g[i] * gamma[i] - level - (from[i] - mean) * slope);
        }
    });
    parallel((width + columns_together - 1) / columns_together, [&](int64_t number) {
        const int64_t first = number * columns_together, columns = std::min(columns_together, width - first);
        double sums[columns_together] = {}, products[columns_together] = {};
        for (int64_t row = 0; row < rows; ++row) {
            const float *g = dy + row * width + first, *from = x + row * width + first;
            const float mean = means[row], scale = scales[row];
#pragma omp simd
            for (int64_t i = 0; i < columns; ++i) {
                sums[i] += g[i];
                products[i] += static_cast<double>(g[i]) * ((from[i] - mean) * scale);
            }
        }
        for (int64_t i = 0; i < columns; ++i) {
            dbeta[first + i] = static_cast<float>(sums[i]);
            dgamma[first + i] = static_cast<float>(products[i]);
        }
    });
    return 0;
}

// x -> x sigmoid(x)
OPERATOR(silu) {
    const auto *x = static_cast<const float *>(parameters[0]);
    auto *y = static_cast<float *>(parameters[1]);
    const int64_t size = count_of(shapes[0], axes[0]), blocks = (size + block - 1) / block;
    std::lock_guard<std::mutex> lock(turn);
    parallel(blocks, [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) y[i] = x[i] * sigmoid(x[i]);
    });
    return 0;
}

// (gradient of y, x) -> gradient of x
OPERATOR(silu_backward) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    auto *dx = static_cast<float *>(parameters[2]);
    const int64_t size = count_of(shapes[1], axes[1]), blocks = (size + block - 1) / block;
    std::lock_guard<std::mutex> lock(turn);
    parallel(blocks, [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) {
            const float s = sigmoid(x[i]);
            dx[i] = dy[i] * (s * (1.0f + x[i] * (1.0f - s)));
        }
    });
    return 0;
}

// (x (n, c, ...), t (n, c)) -> x + t, each number of t on a whole channel
OPERATOR(add_to_channels) {
    const auto *x = static_cast<const float *>(parameters[0]), *t = static_cast<const float *>(parameters[1]);
    auto *y = static_cast<float *>(parameters[2]);
    const int64_t channels = count_of(shapes[1], axes[1]), places = count_of(shapes[0] + 2, axes[0] - 2);
    std::lock_guard<std::mutex> lock(turn);
    parallel(channels, [&](int64_t channel) {
        const float *from = x + channel * places, more = t[channel];
        float *to = y + channel * places;
#pragma omp simd
        for (int64_t i = 0; i < places; ++i) to[i] = from[i] + more;
    });
    return 0;
}

// (gradient of y (n, c, ...), t) -> gradient of t: the sum of each channel
OPERATOR(sum_of_channels) {
    const auto *dy = static_cast<const float *>(parameters[0]);
    auto *dt = static_cast<float *>(parameters[2]);
    const int64_t channels = count_of(shapes[1], axes[1]), places = count_of(shapes[0] + 2, axes[0] - 2);
    std::lock_guard<std::mutex> lock(turn);
    parallel(channels, [&](int64_t channel) {
        dt[channel] = static_cast<float>(sum_of(dy + channel * places, places));
    });
    return 0;
}

// --- attention ----------------------------------------------------------------------------------------------------------

namespace {

constexpr int64_t query_rows = 128;  // queries looked at together: their scores stay in the processor's cache

// Matrices by rows; `stride` is the distance from one row of the result to the next.
void multiply(char transpose_a, char transpose_b, int64_t rows, int64_t columns, int64_t depth, float factor,
              const float *a, int64_t a_stride, const float *b, int64_t b_stride, float keep, float *result,
              int64_t stride) {
    onednn::threadpool_interop_sgemm(transpose_a, transpose_b, rows, columns, depth, factor, a, a_stride, b, b_stride,
                                     keep, result, stride, pool);
}

float *own_scratch(size_t floats) {
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
        float *scores = own_scratch(query_rows * keys);
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
        float *shares = own_scratch(2 * query_rows * keys), *slopes = shares + query_rows * keys;
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

// --- linear layers, transposition ---------------------------------------------------------------------------------------

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

// (n, r, c) -> (n, c, r)
OPERATOR(transpose) {
    const auto *x = static_cast<const float *>(parameters[0]);
    auto *y = static_cast<float *>(parameters[1]);
    const int64_t samples = shapes[0][0], rows = shapes[0][1], columns = shapes[0][2];
    constexpr int64_t side = 16;
    const int64_t bands = (columns + side - 1) / side;
    std::lock_guard<std::mutex> lock(turn);
    parallel(samples * bands, [&](int64_t item) {
        const int64_t first = item % bands * side, last = std::min(columns, first + side);
        const float *from = x + item / bands * rows * columns;
        float *to = y + item / bands * rows * columns;
        for (int64_t start = 0; start < rows; start += side) {
            const int64_t end = std::min(rows, start + side);
            for (int64_t column = first; column < last; ++column)
                for (int64_t row = start; row < end; ++row) to[column * rows + row] = from[row * columns + column];
        }
    });
    return 0;
}

// --- all gradients at once --------------------------------------------------------------------------------------------

namespace {

struct Piece {
    int tensor;
    int64_t start, end;
};

std::vector<Piece> pieces_of(int count, int *axes, int64_t **shapes) {
    constexpr int64_t most = 16 * block;
    std::vector<Piece> pieces;
    for (int tensor = 0; tensor < count; ++tensor) {
        const int64_t size = count_of(shapes[tensor], axes[tensor]);
        for (int64_t start = 0; start < size; start += most)
            pieces.push_back({tensor, start, std::min(size, start + most)});
    }
    return pieces;
}

// body(number of a tensor, start, end) for all of the first tensors, piece by piece.
template <typename Body>
void for_pieces(int tensors, int *axes, int64_t **shapes, Body body) {
    const std::vector<Piece> pieces = pieces_of(tensors, axes, shapes);
    std::lock_guard<std::mutex> lock(turn);
    parallel(static_cast<int64_t>(pieces.size()),
             [&](int64_t number) { body(pieces[number].tensor, pieces[number].start, pieces[number].end); });
}

}  // namespace

// any number of tensors -> the sum of all their squares, of shape (1,): infinite or NaN where an element is.
OPERATOR(sum_of_squares) {
    const std::vector<Piece> pieces = pieces_of(count - 1, axes, shapes);
    std::vector<double> sums(pieces.size());
    std::lock_guard<std::mutex> lock(turn);
    parallel(static_cast<int64_t>(pieces.size()), [&](int64_t number) {
        const Piece &piece = pieces[number];
        const auto *values = static_cast<const float *>(parameters[piece.tensor]);
        double total = 0.0;
        for (int64_t start = piece.start; start < piece.end; start += block) {
            const int64_t end = std::min(piece.end, start + block);
            double sum = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; ++i) sum += static_cast<double>(values[i]) * values[i];
            total += sum;
        }
        sums[number] = total;
    });
    double total = 0.0;
    for (double sum : sums) total += sum;
    *static_cast<float *>(parameters[count - 1]) = static_cast<float>(total);
    return 0;
}

// (coefficient, tensors...) -> tensors times it; zeros where the coefficient is 0, whatever the tensors hold.
OPERATOR(scale_all) {
    const int tensors = (count - 1) / 2;
    const float coefficient = *static_cast<const float *>(parameters[0]);
    for_pieces(tensors, axes + 1, shapes + 1, [&](int tensor, int64_t start, int64_t end) {
        const auto *from = static_cast<const float *>(parameters[1 + tensor]);
        auto *to = static_cast<float *>(parameters[1 + tensors + tensor]);
        if (coefficient == 0.0f) {
            std::fill(to + start, to + end, 0.0f);
            return;
        }
#pragma omp simd
        for (int64_t i = start; i < end; ++i) to[i] = from[i] * coefficient;
    });
    return 0;
}

// (share, averages..., parameters...) -> the averages, in place, moved by the share of the way to their parameters; the
// result only says when. A share of 0 touches nothing.
OPERATOR(move_averages) {
    const int tensors = (count - 2) / 2;
    const float share = *static_cast<const float *>(parameters[0]);
    *static_cast<float *>(parameters[count - 1]) = share;
    if (share == 0.0f) return 0;
    for_pieces(tensors, axes + 1, shapes + 1, [&](int tensor, int64_t start, int64_t end) {
        auto *average = static_cast<float *>(parameters[1 + tensor]);
        const auto *parameter = static_cast<const float *>(parameters[1 + tensors + tensor]);
#pragma omp simd
        for (int64_t i = start; i < end; ++i) average[i] -= share * (average[i] - parameter[i]);
    });
    return 0;
}

// (learning rate, beta1, beta2, epsilon and weight decay as one tensor; parameters..., first moments..., second
// moments..., gradients...) -> AdamW's update of all parameters and moments, in place (Loshchilov & Hutter 2019, algorithm
// 2, without bias correction); the result only says when.
OPERATOR(adam) {
    const int tensors = (count - 2) / 4;
    const auto *numbers = static_cast<const float *>(parameters[0]);
    const float learning_rate = numbers[0], beta1 = numbers[1], beta2 = numbers[2], epsilon = numbers[3];
    const float decay = numbers[4];
    *static_cast<float *>(parameters[count - 1]) = learning_rate;
    for_pieces(tensors, axes + 1, shapes + 1, [&](int tensor, int64_t start, int64_t end) {
        auto *parameter = static_cast<float *>(parameters[1 + tensor]);
        auto *first = static_cast<float *>(parameters[1 + tensors + tensor]);
        auto *second = static_cast<float *>(parameters[1 + 2 * tensors + tensor]);
        const auto *gradient = static_cast<const float *>(parameters[1 + 3 * tensors + tensor]);
#pragma omp simd
        for (int64_t i = start; i < end; ++i) {
            const float g = gradient[i];
            const float m = beta1 * first[i] + (1.0f - beta1) * g, v = beta2 * second[i] + (1.0f - beta2) * g * g;
            first[i] = m;
            second[i] = v;
            parameter[i] -= learning_rate * (m / (std::sqrt(v) + epsilon) + decay * parameter[i]);
        }
    });
    return 0;
}
