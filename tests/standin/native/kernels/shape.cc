// Operators that move, select or make elements.
#include "../tensors.h"

KERNEL(aclnnPermute, (const T *a, const seq *p, T *o, PLAN), IN(a), OUT(o), {
  T v = *a;
  auto q = ints(p);
  for (size_t i = 0; i < q.size(); i++) {
    int k = q[i] < 0 ? q[i] + a->ndim : q[i];
    v.dims[i] = a->dims[k];
    v.strides[i] = a->strides[k];
  }
  store(o, load<double>(&v));
})
KERNEL(aclnnExpand, (const T *a, const seq *p, T *o, PLAN), IN(a), OUT(o), {
  T v = spread(a, dims(o));
  store(o, load<double>(&v));
})
KERNEL(aclnnRepeat, (const T *a, const seq *p, T *o, PLAN), IN(a), OUT(o), {
  auto u = load<double>(a);
  Dims od = dims(o);
  int pad = od.size() - a->ndim;
  std::vector<double> r(count(od));
  for (size_t i = 0; i < r.size(); i++) {
    int64_t rest = i, at = 0, m = 1;
    for (int k = od.size() - 1; k >= 0; k--) {
      int64_t x = rest % od[k];
      rest /= od[k];
      if (k >= pad) {
        at += (x % a->dims[k - pad]) * m;
        m *= a->dims[k - pad];
      }
    }
    r[i] = u[at];
  }
  store(o, r);
})
KERNEL(aclnnCat, (const seq *l, int64_t d, T *o, PLAN), IN(), OUT(o), {
  int k = d < 0 ? d + o->ndim : d;
  int64_t at = 0;
  for (uint64_t i = 0; i < l->n; i++) {
    T *s = item(l, i);
    T v = part(o, k, at, s->dims[k]);
    store(&v, load<double>(s));
    at += s->dims[k];
  }
})
KERNEL(aclnnSplitWithSize, (const T *a, const seq *z, int64_t d, const seq *o, PLAN), IN(a), OUT(), {
  int k = d < 0 ? d + a->ndim : d;
  int64_t at = 0;
  for (uint64_t i = 0; i < o->n; i++) {
    T *s = item(o, i);
    T v = part(a, k, at, s->dims[k]);
    store(s, load<double>(&v));
    at += s->dims[k];
  }
})
KERNEL(aclnnSlice, (const T *a, int64_t d, int64_t b, int64_t e, int64_t st, T *o, PLAN), IN(a), OUT(o), {
  int k = d < 0 ? d + a->ndim : d;
  T v = part(a, k, b, o->dims[k]);
  v.strides[k] *= st;
  store(o, load<double>(&v));
})
KERNEL(aclnnConstantPadNd, (const T *a, const seq *p, const scalar *v, T *o, PLAN), IN(a), OUT(o), {
  store(o, std::vector<double>(count(dims(o)), num(v)));
  T q = *o;
  auto w = ints(p);
  int n = a->ndim;
  for (size_t i = 0; i < w.size() / 2; i++) {
    int k = n - 1 - i;
    q.off += w[2 * i] * o->strides[k];
  }
  for (int k = 0; k < n; k++) q.dims[k] = a->dims[k];
  store(&q, load<double>(a));
})
static void near2d(const T *a, T *o, bool back) { // a: small, o: large; back: sums o into a
  int64_t N = a->dims[0] * a->dims[1], h = a->dims[2], w = a->dims[3], H = o->dims[2], Wd = o->dims[3];
  auto u = back ? std::vector<float>(N * h * w, 0.f) : load<float>(a);
  auto v = back ? load<float>(o) : std::vector<float>(N * H * Wd);
  for (int64_t n = 0; n < N; n++)
    for (int64_t y = 0; y < H; y++)
      for (int64_t x = 0; x < Wd; x++) {
        auto &s = u[(n * h + y * h / H) * w + x * w / Wd];
        auto &b = v[(n * H + y) * Wd + x];
        if (back)
          s += b;
        else
          b = s;
      }
  if (back)
    store((T *)a, u);
  else
    store(o, v);
}
KERNEL(aclnnUpsampleNearest2d, (const T *a, const seq *z, T *o, PLAN), IN(a), OUT(o), { near2d(a, o, false); })
KERNEL(aclnnUpsampleNearest2dBackward, (const T *g, const seq *oz, const seq *iz, double sh, double sw, T *o, PLAN),
       IN(g), OUT(o), { near2d(o, (T *)g, true); })
KERNEL(aclnnIndexSelect, (const T *a, int64_t d, const T *ix, T *o, PLAN), IN(a, ix), OUT(o), {
  int k = d < 0 ? d + a->ndim : d;
  auto q = load<int64_t>(ix);
  for (size_t i = 0; i < q.size(); i++) {
    T s = part(a, k, q[i], 1), t = part(o, k, i, 1);
    store(&t, load<double>(&s));
  }
})
KERNEL(aclnnEmbedding, (const T *a, const T *ix, T *o, PLAN), IN(a, ix), OUT(o), {
  auto q = load<int64_t>(ix);
  T flat = *o;
  auto u = load<double>(a);
  int64_t c = a->dims[1];
  std::vector<double> r(q.size() * c);
  for (size_t i = 0; i < q.size(); i++)
    for (int64_t j = 0; j < c; j++) r[i * c + j] = u[q[i] * c + j];
  store(o, r);
})

KERNEL(aclnnNonzero, (const T *a, T *o, PLAN), IN(a), OUT(o), {
  auto u = load<double>(a);
  std::vector<int64_t> r;
  for (size_t i = 0; i < u.size(); i++)
    if (u[i]) {
      int64_t rest = i;
      std::vector<int64_t> ix(a->ndim);
      for (int k = a->ndim - 1; k >= 0; k--) {
        ix[k] = rest % a->dims[k];
        rest /= a->dims[k];
      }
      r.insert(r.end(), ix.begin(), ix.end());
    }
  o->dims[0] = a->ndim ? r.size() / a->ndim : 0;
  store(o, r);
})
KERNEL(aclnnGather, (const T *a, int64_t d, const T *ix, T *o, PLAN), IN(a, ix), OUT(o), {
  int k = d < 0 ? d + a->ndim : d;
  auto u = load<double>(a);
  auto q = load<int64_t>(ix);
  std::vector<double> r(q.size());
  for (size_t i = 0; i < r.size(); i++) {
    int64_t rest = i, at = 0, m = 1;
    int64_t pos[16];
    for (int j = ix->ndim - 1; j >= 0; j--) {
      pos[j] = rest % ix->dims[j];
      rest /= ix->dims[j];
    }
    pos[k] = q[i];
    for (int j = a->ndim - 1; j >= 0; j--) {
      at += pos[j] * m;
      m *= a->dims[j];
    }
    r[i] = u[at];
  }
  store(o, r);
})
KERNEL(aclnnArange, (const scalar *b, const scalar *e, const scalar *st, T *o, PLAN), IN(), OUT(o), {
  std::vector<double> r(count(dims(o)));
  for (size_t i = 0; i < r.size(); i++) r[i] = num(b) + i * num(st);
  store(o, r);
})
KERNEL(aclnnLinspace, (const scalar *b, const scalar *e, int64_t n, T *o, PLAN), IN(), OUT(o), {
  std::vector<double> r(n);
  for (int64_t i = 0; i < n; i++) r[i] = n == 1 ? num(b) : num(b) + (num(e) - num(b)) * i / (n - 1);
  store(o, r);
})
