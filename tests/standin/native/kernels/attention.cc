// Fused attention in the layouts BNSD, BSND and BSH.
#include "../tensors.h"

struct Att {
  int64_t B, N, S, D;
  int64_t sb, sn, ss;
};
static Att att(const T *t, const std::string &l, int64_t heads) {
  if (l == "BNSD")
    return {
        t->dims[0], t->dims[1], t->dims[2], t->dims[3], t->dims[1] * t->dims[2] * t->dims[3], t->dims[2] * t->dims[3],
        t->dims[3]};
  if (l == "BSND")
    return {t->dims[0],
            t->dims[2],
            t->dims[1],
            t->dims[3],
            t->dims[1] * t->dims[2] * t->dims[3],
            t->dims[3],
            t->dims[2] * t->dims[3]};
  if (l == "BSH") {
    int64_t d = t->dims[2] / heads;
    return {t->dims[0], heads, t->dims[1], d, t->dims[1] * t->dims[2], d, t->dims[2]};
  }
  fprintf(stderr, "[stand-in] attention layout %s is not provided\n", l.c_str());
  abort();
}
static bool masked(const T *m, const std::vector<float> &v, int64_t b, int64_t h, int64_t i, int64_t j, const Att &q,
                   const Att &k) {
  if (!m) return false;
  T s = spread(m, {q.B, q.N, q.S, k.S});
  return v[b * s.strides[0] + h * s.strides[1] + i * s.strides[2] + j * s.strides[3]] != 0;
}
KERNEL(aclnnFlashAttentionScore,
       (const T *q, const T *k, const T *v, const T *pse, const T *drop, const T *pad, const T *mask, const seq *prefix,
        double scale, double keep, int64_t pre, int64_t next, int64_t heads, const char *layout, int64_t inner,
        int64_t sparse, T *smax, T *ssum, T *sout, T *o, PLAN),
       IN(q, k, v, mask), OUT(smax, ssum, o), {
         std::string l = layout;
         Att a = att(q, l, heads), c = att(k, l, heads);
         auto Q = load<float>(q), Kv = load<float>(k), V = load<float>(v);
         auto M = mask ? load<float>(mask) : std::vector<float>();
         std::vector<float> O(Q.size()), MX(a.B * a.N * a.S * 8), SM(MX.size()), p(c.S);
         int64_t rep = a.N / c.N;
         for (int64_t b = 0; b < a.B; b++)
           for (int64_t h = 0; h < a.N; h++)
             for (int64_t i = 0; i < a.S; i++) {
               float mx = -INFINITY, s = 0;
               const float *qq = &Q[b * a.sb + h * a.sn + i * a.ss];
               for (int64_t j = 0; j < c.S; j++) {
                 const float *kk = &Kv[b * c.sb + h / rep * c.sn + j * c.ss];
                 float t = 0;
                 for (int64_t d = 0; d < a.D; d++) t += qq[d] * kk[d];
                 t *= scale;
                 if (masked(mask, M, b, h, i, j, a, c)) t = -INFINITY;
                 p[j] = t;
                 mx = std::max(mx, t);
               }
               for (int64_t j = 0; j < c.S; j++) s += p[j] = std::exp(p[j] - mx);
               float *oo = &O[b * a.sb + h * a.sn + i * a.ss];
               for (int64_t j = 0; j < c.S; j++) {
                 const float *vv = &V[b * c.sb + h / rep * c.sn + j * c.ss];
                 for (int64_t d = 0; d < a.D; d++) oo[d] += p[j] / s * vv[d];
               }
               for (int e = 0; e < 8; e++) {
                 MX[((b * a.N + h) * a.S + i) * 8 + e] = mx;
                 SM[((b * a.N + h) * a.S + i) * 8 + e] = s;
               }
             }
         store(o, O);
         if (smax) store(smax, MX);
         if (ssum) store(ssum, SM);
       })
KERNEL(aclnnFlashAttentionScoreGrad,
       (const T *q, const T *k, const T *v, const T *dy, const T *pse, const T *drop, const T *pad, const T *mask,
        const T *smax, const T *ssum, const T *sin, const T *ain, const seq *prefix, double scale, double keep,
        int64_t pre, int64_t next, int64_t heads, const char *layout, int64_t inner, int64_t sparse, T *dq, T *dk,
        T *dv, T *dpse, PLAN),
       IN(q, k, v, dy), OUT(dq, dk, dv), {
         std::string l = layout;
         Att a = att(q, l, heads), c = att(k, l, heads);
         auto Q = load<float>(q), Kv = load<float>(k), V = load<float>(v), G = load<float>(dy), O = load<float>(ain),
              MX = load<float>(smax), SM = load<float>(ssum);
         auto M = mask ? load<float>(mask) : std::vector<float>();
         std::vector<float> GQ(Q.size(), 0.f), GK(Kv.size(), 0.f), GV(V.size(), 0.f);
         int64_t rep = a.N / c.N;
         for (int64_t b = 0; b < a.B; b++)
           for (int64_t h = 0; h < a.N; h++)
             for (int64_t i = 0; i < a.S; i++) {
               int64_t at = b * a.sb + h * a.sn + i * a.ss;
               float mx = MX[((b * a.N + h) * a.S + i) * 8], s = SM[((b * a.N + h) * a.S + i) * 8], dot = 0;
               for (int64_t d = 0; d < a.D; d++) dot += G[at + d] * O[at + d];
               for (int64_t j = 0; j < c.S; j++) {
                 if (masked(mask, M, b, h, i, j, a, c)) continue;
                 int64_t to = b * c.sb + h / rep * c.sn + j * c.ss;
                 float t = 0, dp = 0;
                 for (int64_t d = 0; d < a.D; d++) {
                   t += Q[at + d] * Kv[to + d];
                   dp += G[at + d] * V[to + d];
                 }
                 float p = std::exp(t * scale - mx) / s, ds = p * (dp - dot) * scale;
                 for (int64_t d = 0; d < a.D; d++) {
                   GV[to + d] += p * G[at + d];
                   GQ[at + d] += ds * Kv[to + d];
                   GK[to + d] += ds * Q[at + d];
                 }
               }
             }
         store(dq, GQ);
         store(dk, GK);
         store(dv, GV);
       })
