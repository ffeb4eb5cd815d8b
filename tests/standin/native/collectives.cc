// HCCL: the collectives of the ranks of one machine, over shared memory.
//
// A communicator is one piece of shared memory: a counter and a slot of SLOT_BYTES for each rank. A collective copies
// its data in chunks of a slot: every rank writes its slot, waits for the others, reads their slots, and waits again.
// Sums are taken in the order of the ranks, so that every rank gets the same bits. HCCL waits on the NPU, this here in
// the call.
#include "tensors.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <fcntl.h>
#include <fstream>
#include <linux/futex.h>
#include <mutex>
#include <sstream>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// HcclResult, HcclDataType and HcclReduceOp as in CANN's hccl_types.h.
enum { SUCCESS = 0, E_PARA = 1, E_NOT_SUPPORT = 5, E_SYSCALL = 8, E_TIMEOUT = 9 };
enum { SUM = 0, PROD = 1, MAX = 2, MIN = 3 };
struct DataType {
  const char *name;
  int acl, bytes; // acl: the same type for tensors.h; -1 where only copies take it
  bool summed;    // whether reductions take it on Atlas A2
};
// https://www.hiascend.com/document/detail/en/canncommercial/850/API/hcclapiref/hcclcpp_07_0020.html and the pages
// after
static const DataType TYPES[] = {
    {"int8", I8, 1, true},     {"int16", I16, 2, true},  {"int32", I32, 4, true},    {"float16", F16, 2, true},
    {"float32", F32, 4, true}, {"int64", I64, 8, true},  {"uint64", -1, 8, false},   {"uint8", U8, 1, false},
    {"uint16", -1, 2, false},  {"uint32", -1, 4, false}, {"float64", F64, 8, false}, {"bfloat16", BF16, 2, true},
};
static const size_t SLOT_BYTES = 4 << 20, NAME_BYTES = 128, MOST_RANKS = 64, PAGE = 4096;

// What a rank shows the others. `arrived` counts the points at which it has waited.
struct alignas(128) Place {
  std::atomic<uint32_t> arrived;
  char call[100]; // the collective and its arguments, to be the same on all ranks
};
struct Comm {
  uint32_t rank, size, waits = 0;
  std::string name;
  Place *places; // one for each rank, then their slots
  char *slots;
  std::atomic<int> error{SUCCESS};
  std::mutex mutex;
  char *slot(uint32_t of) const { return slots + of * SLOT_BYTES; }
};

static double now_s() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static double seconds(const char *variable, double otherwise) {
  const char *text = getenv(variable);
  double value = text && *text ? atof(text) : otherwise;
  return value > 0 ? value : 1e9; // 0: for ever
}

static long fail(Comm *comm, int code, const std::string &message) {
  fprintf(stderr, "[stand-in] %s\n", message.c_str());
  stub_error(message.c_str());
  if (comm) comm->error = code;
  return code;
}

// Wait until every rank has come to this point as often as this one.
static long meet(Comm *comm, const char *what, double limit_s) {
  uint32_t target = ++comm->waits;
  Place &own = comm->places[comm->rank];
  own.arrived.store(target);
  syscall(SYS_futex, &own.arrived, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  double until = now_s() + limit_s;
  for (uint32_t other = 0; other < comm->size; other++) {
    std::atomic<uint32_t> &counter = comm->places[other].arrived;
    for (uint32_t seen; int32_t((seen = counter.load()) - target) < 0;) {
      if (now_s() > until)
        return fail(comm, E_TIMEOUT,
                    std::string(what) + ": rank " + std::to_string(other) + " did not come within " +
                        std::to_string(int(limit_s)) + " s (HCCL_E_TIMEOUT)");
      timespec slice{0, 200 * 1000 * 1000};
      syscall(SYS_futex, &counter, FUTEX_WAIT, seen, &slice, nullptr, 0);
    }
  }
  return SUCCESS;
}

// ---- communicators ----

static long join(const std::string &name, uint32_t size, uint32_t rank, void **result) {
  if (!size || size > MOST_RANKS || rank >= size)
    return fail(nullptr, E_PARA, "HCCL: rank " + std::to_string(rank) + " of " + std::to_string(size));
  size_t bytes = PAGE * (1 + size * sizeof(Place) / PAGE) + size * SLOT_BYTES;
  int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
  void *memory = MAP_FAILED;
  if (file >= 0 && !ftruncate(file, bytes)) memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (memory == MAP_FAILED) return fail(nullptr, E_SYSCALL, "HCCL: no shared memory for " + name);
  Comm *comm = new Comm{rank, size};
  comm->name = name.substr(1);
  comm->places = static_cast<Place *>(memory);
  comm->slots = static_cast<char *>(memory) + bytes - size * SLOT_BYTES;
  long status = meet(comm, "HCCL: links to the other ranks", seconds("HCCL_CONNECT_TIMEOUT", 120));
  shm_unlink(name.c_str()); // whatever happens to the ranks, the memory goes with them
  *result = comm;
  stub_trace("collective", "join", (std::to_string(rank) + " of " + std::to_string(size)).c_str());
  return status;
}

extern "C" long HcclGetRootInfo(char *root) {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  snprintf(root, NAME_BYTES, "/standin_hccl_%d_%lx%lx", getpid(), long(t.tv_sec), long(t.tv_nsec));
  return SUCCESS;
}
extern "C" long HcclCommInitRootInfo(uint32_t size, const char *root, uint32_t rank, void **comm) {
  return join(root, size, rank, comm);
}
extern "C" long HcclCommInitRootInfoConfig(uint32_t size, const char *root, uint32_t rank, const void *, void **comm) {
  return join(root, size, rank, comm);
}

// With a rank table the ranks have no root that could choose a name: it is made from the table's text, and from the
// process that started them, which is not the one of the last run.
extern "C" long HcclCommInitClusterInfo(const char *table, uint32_t rank, void **comm) {
  std::ifstream file(table);
  std::stringstream text;
  text << file.rdbuf();
  const std::string words = text.str(), key = "\"rank_id\"";
  uint32_t size = 0;
  for (size_t at = words.find(key); at != std::string::npos; at = words.find(key, at + 1)) size++;
  if (!size) return fail(nullptr, E_PARA, std::string("HCCL: no rank_id in the rank table ") + table);
  std::string name =
      "/standin_hccl_" + std::to_string(getppid()) + "_" + std::to_string(std::hash<std::string>{}(words));
  return join(name, size, rank, comm);
}
extern "C" long HcclCommInitClusterInfoConfig(const char *table, uint32_t rank, const void *, void **comm) {
  return HcclCommInitClusterInfo(table, rank, comm);
}
extern "C" long HcclCreateSubCommConfig(void **whole, uint32_t size, const uint32_t *ranks, uint64_t id, uint32_t rank,
                                        const void *, void **comm) {
  if (rank >= size) return SUCCESS; // this rank does not belong to it
  std::string name = "/" + static_cast<Comm *>(*whole)->name + "_" + std::to_string(id);
  for (uint32_t i = 0; i < size; i++) name += "_" + std::to_string(ranks[i]);
  return join(name, size, rank, comm);
}
// The memory is kept: another thread of MindSpore may still be in a collective when the process goes down.
extern "C" long HcclCommDestroy(void *comm) { return SUCCESS; }
extern "C" long HcclGetRankId(void *comm, uint32_t *rank) {
  *rank = static_cast<Comm *>(comm)->rank;
  return SUCCESS;
}
extern "C" long HcclGetRankSize(void *comm, uint32_t *size) {
  *size = static_cast<Comm *>(comm)->size;
  return SUCCESS;
}
extern "C" long HcclGetCommName(void *comm, char *name) {
  snprintf(name, NAME_BYTES, "%s", static_cast<Comm *>(comm)->name.c_str());
  return SUCCESS;
}
extern "C" long HcclGetCommAsyncError(void *comm, int *error) {
  *error = static_cast<Comm *>(comm)->error;
  return SUCCESS;
}
extern "C" const char *HcclGetErrorString(int code) {
  return code == E_TIMEOUT ? "HCCL_E_TIMEOUT" : code == SUCCESS ? "HCCL_SUCCESS" : "an error of HCCL";
}

// ---- collectives ----

// A collective under way: the checks before it, and its data in chunks.
struct Call {
  Comm *comm;
  std::lock_guard<std::mutex> lock;
  const DataType *type = nullptr;
  std::string name, text;
  double limit_s = seconds("HCCL_EXEC_TIMEOUT", 1836);

  explicit Call(void *handle) : comm(static_cast<Comm *>(handle)), lock(comm->mutex) {}

  long begin(const char *function, uint64_t count, int data_type, int op, uint32_t root) {
    name = function;
    if (data_type < 0 || data_type >= int(sizeof TYPES / sizeof *TYPES))
      return fail(comm, E_NOT_SUPPORT, name + ": data type " + std::to_string(data_type));
    type = &TYPES[data_type];
    std::ostringstream shown;
    shown << type->name << "[" << count << "]";
    if (op >= 0) shown << " op=" << op;
    if (root != UINT_MAX) shown << " root=" << root;
    text = shown.str();
    stub_trace("collective", function, text.c_str());
    if (op > MIN || (op >= 0 && !type->summed) || (op == PROD && (type->acl == I16 || type->acl == BF16)))
      return fail(comm, E_NOT_SUPPORT, name + " " + text + ": a type or operation that HCCL does not reduce");
    if (root != UINT_MAX && root >= comm->size) return fail(comm, E_PARA, name + " " + text + ": no such rank");
    Place &own = comm->places[comm->rank];
    snprintf(own.call, sizeof own.call, "%s %s", function, text.c_str());
    if (long status = meet(comm, own.call, limit_s)) return status;
    for (uint32_t other = 0; other < comm->size; other++)
      if (strncmp(comm->places[other].call, own.call, sizeof own.call))
        return fail(comm, E_PARA,
                    "rank " + std::to_string(comm->rank) + " calls " + own.call + ", rank " + std::to_string(other) +
                        " " + comm->places[other].call);
    return SUCCESS;
  }

  // Write `bytes` into this rank's slot, wait, let `read` have the slots, wait.
  template <class Read> long exchange(const void *own, size_t bytes, Read read) {
    if (own) memcpy(comm->slot(comm->rank), own, bytes);
    if (long status = meet(comm, comm->places[comm->rank].call, limit_s)) return status;
    read();
    return meet(comm, comm->places[comm->rank].call, limit_s);
  }

  // `elements` of this call's type, as a tensor.
  T values(char *elements, size_t count) const {
    T t{};
    t.magic = TENSOR, t.dtype = type->acl, t.ndim = 1, t.dims[0] = count, t.strides[0] = 1, t.data = elements;
    return t;
  }

  template <class V> void combine(char *into, size_t offset, size_t count, int op) {
    T result = values(into, count), first = values(comm->slot(0) + offset, count);
    store(&result, load<V>(&first));
    for (uint32_t rank = 1; rank < comm->size; rank++) {
      T next = values(comm->slot(rank) + offset, count);
      auto total = load<V>(&result), value = load<V>(&next); // each partial sum has the type of the data
      for (size_t i = 0; i < count; i++)
        total[i] = op == SUM    ? total[i] + value[i]
                   : op == PROD ? total[i] * value[i]
                   : op == MAX  ? std::max(total[i], value[i])
                                : std::min(total[i], value[i]);
      store(&result, total);
    }
  }
  // The reduction of `count` values at `offset` bytes of each slot.
  void reduce(char *into, size_t offset, size_t count, int op) {
    bool whole = type->acl == I8 || type->acl == I16 || type->acl == I32 || type->acl == I64;
    if (whole)
      combine<int64_t>(into, offset, count, op);
    else
      combine<float>(into, offset, count, op);
  }
};

static long reduce_to(const char *name, char *send, char *receive, uint64_t count, int type, int op, uint32_t root,
                      void *handle) {
  Call call(handle);
  if (long status = call.begin(name, count, type, op, root)) return status;
  bool receives = root == UINT_MAX || root == call.comm->rank;
  size_t step = SLOT_BYTES / call.type->bytes, width = call.type->bytes;
  for (uint64_t at = 0; at < count; at += step) {
    size_t part = std::min<uint64_t>(step, count - at);
    auto read = [&] {
      if (receives) call.reduce(receive + at * width, 0, part, op);
    };
    if (long status = call.exchange(send + at * width, part * width, read)) return status;
  }
  return SUCCESS;
}
extern "C" long HcclAllReduce(char *send, char *receive, uint64_t count, int type, int op, void *comm, void *) {
  return reduce_to("HcclAllReduce", send, receive, count, type, op, UINT_MAX, comm);
}
extern "C" long HcclReduce(char *send, char *receive, uint64_t count, int type, int op, uint32_t root, void *comm,
                           void *) {
  return reduce_to("HcclReduce", send, receive, count, type, op, root, comm);
}

extern "C" long HcclReduceScatter(char *send, char *receive, uint64_t count, int type, int op, void *handle, void *) {
  Call call(handle);
  if (long status = call.begin("HcclReduceScatter", count, type, op, UINT_MAX)) return status;
  size_t width = call.type->bytes, size = call.comm->size, step = SLOT_BYTES / size / width;
  for (uint64_t at = 0; at < count; at += step) {
    size_t part = std::min<uint64_t>(step, count - at);
    for (size_t rank = 0; rank < size; rank++) // the part of each rank, one after the other
      memcpy(call.comm->slot(call.comm->rank) + rank * part * width, send + (rank * count + at) * width, part * width);
    auto read = [&] { call.reduce(receive + at * width, call.comm->rank * part * width, part, op); };
    if (long status = call.exchange(nullptr, 0, read)) return status;
  }
  return SUCCESS;
}

extern "C" long HcclAllGather(char *send, char *receive, uint64_t count, int type, void *handle, void *) {
  Call call(handle);
  if (long status = call.begin("HcclAllGather", count, type, -1, UINT_MAX)) return status;
  size_t bytes = count * call.type->bytes;
  for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
    size_t part = std::min(SLOT_BYTES, bytes - at);
    auto read = [&] {
      for (uint32_t rank = 0; rank < call.comm->size; rank++)
        memcpy(receive + rank * bytes + at, call.comm->slot(rank), part);
    };
    if (long status = call.exchange(send + at, part, read)) return status;
  }
  return SUCCESS;
}

extern "C" long HcclBroadcast(char *data, uint64_t count, int type, uint32_t root, void *handle, void *) {
  Call call(handle);
  if (long status = call.begin("HcclBroadcast", count, type, -1, root)) return status;
  bool sends = call.comm->rank == root;
  size_t bytes = count * call.type->bytes;
  for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
    size_t part = std::min(SLOT_BYTES, bytes - at);
    auto read = [&] {
      if (!sends) memcpy(data + at, call.comm->slot(root), part);
    };
    if (long status = call.exchange(sends ? data + at : nullptr, part, read)) return status;
  }
  return SUCCESS;
}

extern "C" long HcclScatter(char *send, char *receive, uint64_t count, int type, uint32_t root, void *handle, void *) {
  Call call(handle);
  if (long status = call.begin("HcclScatter", count, type, -1, root)) return status;
  size_t bytes = count * call.type->bytes, step = SLOT_BYTES / call.comm->size;
  for (size_t at = 0; at < bytes; at += step) {
    size_t part = std::min(step, bytes - at);
    if (call.comm->rank == root)
      for (uint32_t rank = 0; rank < call.comm->size; rank++)
        memcpy(call.comm->slot(root) + rank * part, send + rank * bytes + at, part);
    auto read = [&] { memcpy(receive + at, call.comm->slot(root) + call.comm->rank * part, part); };
    if (long status = call.exchange(nullptr, 0, read)) return status;
  }
  return SUCCESS;
}

extern "C" long HcclBarrier(void *handle, void *) {
  Call call(handle);
  if (long status = call.begin("HcclBarrier", 0, 0, -1, UINT_MAX)) return status;
  return call.exchange(nullptr, 0, [] {});
}

// What this package does not use: named, instead of counted as done.
#define NOT_THERE(function)                                                                                            \
  extern "C" long function() {                                                                                         \
    return fail(nullptr, E_NOT_SUPPORT,                                                                                \
                #function ": the stand-in has none; it belongs in tests/standin/native/collectives.cc");               \
  }
NOT_THERE(HcclSend)
NOT_THERE(HcclRecv)
NOT_THERE(HcclBatchSendRecv)
NOT_THERE(HcclAlltoAll)
NOT_THERE(HcclAlltoAllV)
NOT_THERE(HcclAlltoAllVC)
NOT_THERE(HcclAllGatherV)
NOT_THERE(HcclReduceScatterV)
