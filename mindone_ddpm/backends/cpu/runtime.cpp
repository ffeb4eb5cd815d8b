// Loading oneDNN, the threads, the memory and the clock that all operators share, and starting them.

#include <dlfcn.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>

#include "native.h"

namespace onednn {

#define DEFINE(result, name, ...) result (*name)(__VA_ARGS__);
FUNCTIONS(DEFINE)
#undef DEFINE

#ifndef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0  // of glibc alone
#endif

bool load(const char *path, bool is_copy) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | (is_copy ? RTLD_DEEPBIND : 0));
    if (library == nullptr) return false;
    auto version = reinterpret_cast<const Version *(*)()>(dlsym(library, "dnnl_version"));
    if (version == nullptr || version()->major != 3) return false;
#define LOAD(result, name, ...)                                                                     \
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

namespace native {

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

}  // namespace

onednn::ThreadPool *pool = nullptr;
bool started = false;
void *engine = nullptr, *stream = nullptr, *attributes = nullptr;
std::mutex turn;

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

namespace {

// Where the time goes: calls and seconds of each operator.
struct Spent {
    int64_t calls = 0;
    double seconds = 0.0;
};
std::map<std::string, Spent> spent;
std::mutex spent_mutex;

}  // namespace

Clock::~Clock() {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    std::lock_guard<std::mutex> lock(spent_mutex);
    Spent &own = spent[name_];
    ++own.calls;
    own.seconds += passed.count();
}

}  // namespace native

// Lines of "operator calls seconds" since the last time, as many as fit.
extern "C" void mindone_ddpm_times(char *text, size_t size) {
    using namespace native;
    std::lock_guard<std::mutex> lock(spent_mutex);
    std::string lines;
    for (const auto &[name, own] : spent)
        lines += name + " " + std::to_string(own.calls) + " " + std::to_string(own.seconds) + "\n";
    spent.clear();
    std::snprintf(text, size, "%s", lines.c_str());
}

extern "C" int mindone_ddpm_start(const char *onednn_path, int is_copy, int threads) {
    using namespace native;
    using namespace onednn;
    if (started) return 0;
    if (!load(onednn_path, is_copy != 0)) return 1;
    if (pool == nullptr) pool = new Pool(std::max(1, threads));
    if (engine_create(&engine, cpu, 0) != success) return 2;
    if (threadpool_interop_stream_create(&stream, engine, pool) != success) return 3;
    if (primitive_attr_create(&attributes) != success) return 4;
    if (primitive_attr_set_scratchpad_mode(attributes, scratchpad_user) != success) return 5;
    started = true;
    return 0;
}
