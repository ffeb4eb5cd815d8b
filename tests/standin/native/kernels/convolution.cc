// Convolution and its gradients.
#include "../tensors.h"

struct Conv {
  int64_t N, C, H, Wd, O, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, g, cg;
};
static Conv shape_of(const T *x, const T *w, const T *o, const seq *s, const seq *p, const seq *d, int64_t g) {
  auto S = ints(s), P = ints(p), D = ints(d);
  return {x->dims[0], x->dims[1], x->dims[2], x->dims[3], w->dims[0], w->dims[2], w->dims[3], o->dims[2],    o->dims[3],
          S[0],       S.back(),   P[0],       P.back(),   D[0],       D.back(),   g,          x->dims[1] / g};
}
template <class Fn>
static void columns(const Conv &c, int64_t grp,
                    Fn fn) { // fn(row of the column matrix, column, offset in one image, or -1)
  for (int64_t q = 0; q < c.cg; q++)
    for (int64_t i = 0; i < c.kh; i++)
      for (int64_t j = 0; j < c.kw; j++) {
        int64_t row = (q * c.kh + i) * c.kw + j;
        for (int64_t y = 0; y < c.oh; y++) {
          int64_t sy = y * c.sh - c.ph + i * c.dh;
          for (int64_t x = 0; x < c.ow; x++) {
            int64_t sx = x * c.sw - c.pw + j * c.dw;
            bool in = sy >= 0 && sy < c.H && sx >= 0 && sx < c.Wd;
            fn(row, y * c.ow + x, in ? ((grp * c.cg + q) * c.H + sy) * c.Wd + sx : -1);
          }
        }
      }
}
KERNEL(aclnnConvolution,
       (const T *x, const T *w, const T *b, const seq *s, const seq *p, const seq *d, bool tr, const seq *op, int64_t g,
        T *o, int8_t cm, PLAN),
       IN(x, w, b), OUT(o), {
         if (tr || x->ndim != 4) {
           fprintf(stderr, "[stand-in] this convolution is not provided\n");
           abort();
         }
         Conv c = shape_of(x, w, o, s, p, d, g);
         auto X = load<float>(x), Wt = load<float>(w), B = b ? load<float>(b) : std::vector<float>(c.O, 0.f);
         int64_t k = c.cg * c.kh * c.kw, n = c.oh * c.ow, og = c.O / g;
         std::vector<float> col(k * n), Y(c.N * c.O * n);
         for (int64_t i = 0; i < c.N; i++)
           for (int64_t q = 0; q < g; q++) {
             const float *im = &X[i * c.C * c.H * c.Wd];
             columns(c, q, [&](int64_t r, int64_t a, int64_t at) { col[r * n + a] = at < 0 ? 0 : im[at]; });
             gemm(&Wt[q * og * k], col.data(), &Y[(i * c.O + q * og) * n], og, k, n);
           }
         for (int64_t i = 0; i < c.N; i++)
           for (int64_t q = 0; q < c.O; q++)
             for (int64_t j = 0; j < n; j++) Y[(i * c.O + q) * n + j] += B[q];
         store(o, Y);
       })
KERNEL(aclnnConvolutionBackward,
       (const T *gy, const T *x, const T *w, const seq *bs, const seq *s, const seq *p, const seq *d, bool tr,
        const seq *op, int64_t g, const seq *mask, int8_t cm, T *gx, T *gw, T *gb, PLAN),
       IN(gy, x, w), OUT(gx, gw, gb), {
         if (tr || x->ndim != 4) {
           fprintf(stderr, "[stand-in] this convolution is not provided\n");
           abort();
         }
         Conv c = shape_of(x, w, gy, s, p, d, g);
         auto X = load<float>(x), Wt = load<float>(w), G = load<float>(gy);
         int64_t k = c.cg * c.kh * c.kw, n = c.oh * c.ow, og = c.O / g;
         bool m0 = mask->data[0], m1 = mask->data[1], m2 = mask->data[2];
         std::vector<float> col(k * n), GX(X.size(), 0.f), GW(Wt.size(), 0.f), GB(c.O, 0.f), wt(k * og), gc(k * n);
         for (int64_t i = 0; i < c.N; i++)
           for (int64_t q = 0; q < g; q++) {
             const float *im = &X[i * c.C * c.H * c.Wd];
             const float *gg = &G[(i * c.O + q * og) * n];
             const float *ww = &Wt[q * og * k];
             if (m1) {
               columns(c, q, [&](int64_t r, int64_t a, int64_t at) { col[r * n + a] = at < 0 ? 0 : im[at]; });
               for (int64_t o = 0; o < og; o++)
                 for (int64_t r = 0; r < k; r++) {
                   float t = 0;
                   const float *u = gg + o * n, *v = &col[r * n];
                   for (int64_t j = 0; j < n; j++) t += u[j] * v[j];
                   GW[(q * og + o) * k + r] += t;
                 }
             }
             if (m0) {
               for (int64_t o = 0; o < og; o++)
                 for (int64_t r = 0; r < k; r++) wt[r * og + o] = ww[o * k + r];
               gemm(wt.data(), gg, gc.data(), k, og, n);
               float *to = &GX[i * c.C * c.H * c.Wd];
               columns(c, q, [&](int64_t r, int64_t a, int64_t at) {
                 if (at >= 0) to[at] += gc[r * n + a];
               });
             }
             if (m2)
               for (int64_t o = 0; o < og; o++)
                 for (int64_t j = 0; j < n; j++) GB[q * og + o] += gg[o * n + j];
           }
         if (m0 && gx) store(gx, GX);
         if (m1 && gw) store(gw, GW);
         if (m2 && gb) store(gb, GB);
       })
