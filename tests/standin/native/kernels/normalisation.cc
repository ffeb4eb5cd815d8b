// Group and layer normalisation, and their gradients.
#include "../tensors.h"

KERNEL(aclnnGroupNorm,
       (const T *x, const T *w, const T *b, int64_t N, int64_t C, int64_t S, int64_t g, double eps, T *o, T *mean,
        T *rstd, PLAN),
       IN(x, w, b), OUT(o, mean, rstd), {
         auto X = load<float>(x), A = w ? load<float>(w) : std::vector<float>(C, 1.f),
              B = b ? load<float>(b) : std::vector<float>(C, 0.f);
         std::vector<float> M(N * g), R(N * g);
         int64_t cg = C / g, n = cg * S;
         for (int64_t i = 0; i < N * g; i++) {
           double m = 0, v = 0;
           float *p = &X[i * n];
           for (int64_t j = 0; j < n; j++) m += p[j];
           m /= n;
           for (int64_t j = 0; j < n; j++) v += (p[j] - m) * (p[j] - m);
           v /= n;
           M[i] = m;
           R[i] = 1 / std::sqrt(v + eps);
           for (int64_t j = 0; j < n; j++) {
             int64_t c = (i % g) * cg + j / S;
             p[j] = (p[j] - M[i]) * R[i] * A[c] + B[c];
           }
         }
         store(o, X);
         store(mean, M);
         store(rstd, R);
       })
KERNEL(aclnnGroupNormBackward,
       (const T *gy, const T *x, const T *mean, const T *rstd, const T *w, int64_t N, int64_t C, int64_t S, int64_t g,
        const seq *mask, T *gx, T *gw, T *gb, PLAN),
       IN(gy, x, mean, rstd, w), OUT(gx, gw, gb), {
         auto G = load<float>(gy), X = load<float>(x), M = load<float>(mean), R = load<float>(rstd),
              A = w ? load<float>(w) : std::vector<float>(C, 1.f);
         std::vector<float> GX(X.size()), GW(C, 0.f), GB(C, 0.f);
         int64_t cg = C / g, n = cg * S;
         for (int64_t i = 0; i < N * g; i++) {
           double s1 = 0, s2 = 0;
           for (int64_t j = 0; j < n; j++) {
             int64_t c = (i % g) * cg + j / S, p = i * n + j;
             float xh = (X[p] - M[i]) * R[i], d = G[p] * A[c];
             s1 += d;
             s2 += d * xh;
             GW[c] += G[p] * xh;
             GB[c] += G[p];
           }
           for (int64_t j = 0; j < n; j++) {
             int64_t c = (i % g) * cg + j / S, p = i * n + j;
             float xh = (X[p] - M[i]) * R[i];
             GX[p] = R[i] * (G[p] * A[c] - (s1 + xh * s2) / n);
           }
         }
         if (gx) store(gx, GX);
         if (gw) store(gw, GW);
         if (gb) store(gb, GB);
       })
KERNEL(aclnnLayerNorm, (const T *x, const seq *ns, const T *w, const T *b, double eps, T *o, T *mean, T *rstd, PLAN),
       IN(x, w, b), OUT(o, mean, rstd), {
         auto X = load<float>(x);
         int64_t n = count(ints(ns)), r = X.size() / n;
         auto A = w ? load<float>(w) : std::vector<float>(n, 1.f), B = b ? load<float>(b) : std::vector<float>(n, 0.f);
         std::vector<float> M(r), R(r);
         for (int64_t i = 0; i < r; i++) {
           double m = 0, v = 0;
           float *p = &X[i * n];
           for (int64_t j = 0; j < n; j++) m += p[j];
           m /= n;
           for (int64_t j = 0; j < n; j++) v += (p[j] - m) * (p[j] - m);
           v /= n;
           M[i] = m;
           R[i] = 1 / std::sqrt(v + eps);
           for (int64_t j = 0; j < n; j++) p[j] = (p[j] - M[i]) * R[i] * A[j] + B[j];
         }
         store(o, X);
         if (mean) store(mean, M);
         if (rstd) store(rstd, R);
       })
