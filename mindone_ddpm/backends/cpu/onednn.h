// What of oneDNN's C interface (version 3) is used here; constants as in its dnnl_types.h. The functions are pointers,
// set by load() from the library that MindSpore brings: no header and no library is needed to compile this.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace onednn __attribute__((visibility("hidden"))) {

using Dims = int64_t[12];
struct Argument {
    int kind;
    void *memory;
};
enum { isa_default = 0 };
enum { success = 0, cpu = 1, bf16 = 2, f32 = 3, format_any = 1, format_a = 2, scratchpad_user = 1, query_argument = 255 };
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
      const float *, int64_t, float, float *, int64_t, void *)                                                        \
    X(int, threadpool_interop_gemm_bf16bf16f32, char, char, int64_t, int64_t, int64_t, float, const uint16_t *,       \
      int64_t, const uint16_t *, int64_t, float, float *, int64_t, void *)

#define DECLARE(result, name, ...) extern result (*name)(__VA_ARGS__);
FUNCTIONS(DECLARE)
#undef DECLARE

// Fill the functions in. Returns whether the library is a oneDNN of version 3 with all of them.
// `is_copy`: the library is another file than MindSpore's, and so has settings of its own, if it looks for its own
// functions first. It may use all instructions of the CPU, whatever the environment says for MindSpore's.
bool load(const char *path, bool is_copy);

}  // namespace onednn
