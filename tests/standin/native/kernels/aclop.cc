// The older interface, aclopCompileAndExecuteV2: operators by name.
#include "../tensors.h"

struct Desc {
  T t;
  std::vector<char> fixed;
};
struct Buf {
  void *p;
  size_t n;
};
typedef std::map<std::string, std::vector<double>> Attr;
extern "C" {
Desc *aclCreateTensorDesc(int dtype, int n, const int64_t *d, int fmt) {
  Desc *x = new Desc();
  memset(&x->t, 0, sizeof x->t);
  x->t.magic = TENSOR;
  x->t.dtype = dtype;
  x->t.ndim = n;
  int64_t m = 1;
  for (int i = n - 1; i >= 0; i--) {
    x->t.dims[i] = d[i];
    x->t.strides[i] = m;
    m *= d[i];
  }
  return x;
}
void aclDestroyTensorDesc(Desc *d) { delete d; }
int aclSetTensorConst(Desc *d, void *p, size_t n) {
  d->fixed.assign((char *)p, (char *)p + n);
  return 0;
}
Buf *aclCreateDataBuffer(void *p, size_t n) { return new Buf{p, n}; }
int aclDestroyDataBuffer(Buf *b) {
  delete b;
  return 0;
}
int aclUpdateDataBuffer(Buf *b, void *p, size_t n) {
  b->p = p;
  b->n = n;
  return 0;
}
void *aclGetDataBufferAddr(Buf *b) { return b->p; }
Attr *aclopCreateAttr() { return new Attr(); }
void aclopDestroyAttr(Attr *a) { delete a; }
int aclopSetAttrInt(Attr *a, const char *k, int64_t v) {
  (*a)[k] = {double(v)};
  return 0;
}
int aclopSetAttrBool(Attr *a, const char *k, uint8_t v) {
  (*a)[k] = {double(v)};
  return 0;
}
int aclopSetAttrFloat(Attr *a, const char *k, float v) {
  (*a)[k] = {v};
  return 0;
}
int aclopSetAttrListInt(Attr *a, const char *k, int n, const int64_t *v) {
  (*a)[k] = std::vector<double>(v, v + n);
  return 0;
}
int aclopCompileAndExecuteV2(const char *op, int ni, Desc *id[], Buf *ib[], int no, Desc *od[], Buf *ob[], Attr *at,
                             int et, int cf, const char *path, void *st) {
  std::string name = op, text;
  std::vector<T> in(ni), out(no);
  static Attr none;
  if (!at) at = &none;
  for (int i = 0; i < ni; i++) {
    if (!id[i]) {
      memset(&in[i], 0, sizeof(T));
      text += " null";
      continue;
    }
    in[i] = id[i]->t;
    in[i].data = id[i]->fixed.empty() ? (ib[i] ? ib[i]->p : nullptr) : id[i]->fixed.data();
    text += show(&in[i]);
  }
  text += " ->";
  for (int i = 0; i < no; i++) {
    if (!od[i] || !ob[i]) {
      memset(&out[i], 0, sizeof(T));
      text += " null";
      continue;
    }
    out[i] = od[i]->t;
    out[i].data = ob[i]->p;
    text += show(&out[i]);
  }
  for (auto &kv : *at) text += " " + kv.first + "=" + (kv.second.empty() ? "" : std::to_string((long)kv.second[0]));
  stub_trace("aclop", op, text.c_str());
  auto attr = [&](const char *k, double d = 0) {
    auto i = at->find(k);
    return i == at->end() || i->second.empty() ? d : i->second[0];
  };
  auto axes = [&](const T &t) { return load<int64_t>(&t); };
  if (name == "Assign") {
    T y = spread(&in[1], dims(&in[0]));
    auto v = load<double>(&y);
    store(&in[0], v);
    if (no && out[0].data && out[0].data != in[0].data) store(&out[0], v);
  } else if (name == "AssignAdd") {
    binary(&in[0], &in[1], &in[0], [](auto x, auto y) { return x + y; });
    if (no && out[0].data && out[0].data != in[0].data) store(&out[0], load<double>(&in[0]));
  } else if (name == "AssignSub") {
    binary(&in[0], &in[1], &in[0], [](auto x, auto y) { return x - y; });
    if (no && out[0].data && out[0].data != in[0].data) store(&out[0], load<double>(&in[0]));
  } else if (name == "AddN") {
    auto v = load<float>(&in[0]);
    for (int i = 1; i < ni; i++) {
      auto u = load<float>(&in[i]);
      for (size_t j = 0; j < v.size(); j++) v[j] += u[j];
    }
    store(&out[0], v);
  } else if (name == "Split") {
    int k = axes(in[0])[0];
    if (k < 0) k += in[1].ndim;
    int64_t at = 0;
    for (auto &o : out) {
      T v = part(&in[1], k, at, o.dims[k]);
      store(&o, load<double>(&v));
      at += o.dims[k];
    }
  } else if (name == "Pack") {
    int k = attr("axis");
    if (k < 0) k += out[0].ndim;
    for (int i = 0; i < ni; i++) {
      T place = part(&out[0], k, i, 1);
      store(&place, load<double>(&in[i]));
    }
  } else if (name == "Slice") {
    auto b = axes(in[1]);
    T v = in[0];
    for (size_t i = 0; i < b.size(); i++) {
      v.off += b[i] * v.strides[i];
      v.dims[i] = out[0].dims[i];
    }
    store(&out[0], load<double>(&v));
  } else if (name == "TensorMove")
    store(&out[0], load<double>(&in[0]));
  else if (name == "ZerosLike")
    store(&out[0], std::vector<float>(count(dims(&out[0])), 0.f));
  else if (name == "OnesLike")
    store(&out[0], std::vector<float>(count(dims(&out[0])), 1.f));
  else if (name == "RealDiv")
    binary(&in[0], &in[1], &out[0], [](auto x, auto y) { return x / y; });
  else if (name == "ReduceMean") {
    auto r = reduce(&in[0], axes(in[1]), 0, [](double x, double y) { return x + y; });
    double n = double(count(dims(&in[0]))) / r.size();
    for (auto &v : r) v /= n;
    store(&out[0], r);
  } else if (name == "ReduceSum")
    store(&out[0], reduce(&in[0], axes(in[1]), 0, [](double x, double y) { return x + y; }));
  else if (name == "Cumprod") {
    if (in[0].ndim != 1 || attr("exclusive") || attr("reverse")) abort();
    auto v = load<float>(&in[0]);
    for (size_t i = 1; i < v.size(); i++) v[i] *= v[i - 1];
    store(&out[0], v);
  } else if (name == "GatherV2") {
    int k = axes(in[2])[0];
    if (attr("batch_dims")) abort();
    if (k < 0) k += in[0].ndim;
    auto q = load<int64_t>(&in[1]);
    T o = out[0];
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < k; i++) outer *= in[0].dims[i];
    for (uint64_t i = k + 1; i < in[0].ndim; i++) inner *= in[0].dims[i];
    auto u = load<double>(&in[0]);
    std::vector<double> r(outer * q.size() * inner);
    for (int64_t a = 0; a < outer; a++)
      for (size_t b = 0; b < q.size(); b++)
        for (int64_t c = 0; c < inner; c++)
          r[(a * q.size() + b) * inner + c] = u[(a * in[0].dims[k] + q[b]) * inner + c];
    store(&out[0], r);
  } else if (name == "StridedSlice") {
    auto b = axes(in[1]), e = axes(in[2]), s = axes(in[3]);
    long bm = attr("begin_mask"), em = attr("end_mask"), xm = attr("ellipsis_mask"), nm = attr("new_axis_mask"),
         sm = attr("shrink_axis_mask");
    T v = in[0];
    v.ndim = 0;
    int k = 0;
    for (size_t i = 0; i < b.size(); i++) {
      if (xm >> i & 1) {
        int skip = in[0].ndim - k - (b.size() - i - 1);
        for (int j = i + 1; j < (int)b.size(); j++)
          if (nm >> j & 1) skip++;
        while (skip-- > 0) {
          v.dims[v.ndim] = in[0].dims[k];
          v.strides[v.ndim++] = in[0].strides[k++];
        }
        continue;
      }
      if (nm >> i & 1) {
        v.dims[v.ndim] = 1;
        v.strides[v.ndim++] = 0;
        continue;
      }
      int64_t n = in[0].dims[k], B = b[i] < 0 ? b[i] + n : b[i], E = e[i] < 0 ? e[i] + n : e[i];
      if (bm >> i & 1) B = s[i] > 0 ? 0 : n - 1;
      if (em >> i & 1) E = s[i] > 0 ? n : -1;
      if (s[i] > 0) {
        B = std::min(B, n);
        E = std::min(E, n);
      }
      v.off += B * in[0].strides[k];
      if (!(sm >> i & 1)) {
        v.dims[v.ndim] = std::max<int64_t>(0, (E - B + s[i] - (s[i] > 0 ? 1 : -1)) / s[i]);
        v.strides[v.ndim++] = in[0].strides[k] * s[i];
      }
      k++;
    }
    while (k < (int)in[0].ndim) {
      v.dims[v.ndim] = in[0].dims[k];
      v.strides[v.ndim++] = in[0].strides[k++];
    }
    if (count(dims(&v)) != count(dims(&out[0]))) {
      fprintf(stderr, "[stand-in] StridedSlice: %s\n", text.c_str());
      abort();
    }
    store(&out[0], load<double>(&v));
  } else {
    stub_error((name + ": the stand-in NPU has no kernel for this aclop").c_str());
    fprintf(stderr, "[stand-in] no kernel for aclop %s%s\n", op, text.c_str());
    return 100000;
  }
  return 0;
}
int aclopCompileAndExecute(const char *op, int ni, Desc *id[], Buf *ib[], int no, Desc *od[], Buf *ob[], Attr *at,
                           int et, int cf, const char *path, void *st) {
  return aclopCompileAndExecuteV2(op, ni, id, ib, no, od, ob, at, et, cf, path, st);
}
}
