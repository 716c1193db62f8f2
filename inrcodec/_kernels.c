/* The arithmetic of fits, pictures and probabilities on a CPU: the layers of all networks, fused so that nothing but
 * rows of a few dozen planes is ever in flight. `native` says what goes in and out; without this module, which needs a
 * C compiler when the package is installed, NumPy and PyTorch compute the same.
 *
 * Planes are float32 and lie row by row. All products are `span`'s: matrices (rows, inner) times the rows of planes
 * that a list of pointers names, so that a convolution, a causal context and a layer are the same to it.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && (defined(__clang__) || __GNUC__ >= 12)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, PANEL = 4, ROWS = 4, LONGEST = 256, TAPS = 11, MOST = 16 };
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int Mask __attribute__((vector_size(4 * LANES), aligned(4)));
typedef const float *Row;

/* `entropy.CAUSAL`: where the taps of a context lie, and `rate`'s constants of the Laplace distribution. */
static const int TAP_Y[TAPS] = {-2, -2, -2, -2, -2, -1, -1, -1, -1, 0, 0};
static const int TAP_X[TAPS] = {-2, -1, 0, 1, 2, -2, -1, 0, 1, -2, -1};
static const float LEAST_LOG = -4, MOST_LOG = 5, LEAST_SCALE = 0.02f, PER_BIT = 1.44269504f;

typedef struct {
    const float *matrix; /* (rows, inner) */
    int rows, inner;
    const float *bias;   /* (rows,) or NULL */
    const float *more;   /* planes that are added, laid out like the result, or NULL */
    const float *kept;   /* planes: where they are not positive, the result is 0; or NULL */
    Py_ssize_t by_kept;  /* from one of these to the next */
    int rectified;       /* 0 in place of what is negative */
} Product;

/* `rows` rows of a product from row `top` on, at `panels` * LANES places from `at` on. */
INLINE void panel(const Product *p, const int rows, const int panels, int top, int at, const Row *x, float *out,
                  Py_ssize_t by_out)
{
    Vector sums[ROWS][PANEL];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels; v++) {
            sums[r][v] = (p->bias ? p->bias[top + r] : 0) - (Vector){0};
            if (p->more)
                sums[r][v] += *(const Vector *)(p->more + (top + r) * by_out + at + v * LANES);
        }
    for (int k = 0; k < p->inner; k++) {
        Vector values[PANEL];
        for (int v = 0; v < panels; v++)
            values[v] = *(const Vector *)(x[k] + at + v * LANES);
        for (int r = 0; r < rows; r++) {
            float weight = p->matrix[(top + r) * p->inner + k];
            for (int v = 0; v < panels; v++)
                sums[r][v] += weight * values[v];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels; v++) {
            Vector sum = sums[r][v];
            if (p->rectified)
                sum = (Vector)((Mask)sum & (sum > 0));
            if (p->kept)
                sum = (Vector)((Mask)sum & (*(const Vector *)(p->kept + (top + r) * p->by_kept + at + v * LANES) > 0));
            *(Vector *)(out + (top + r) * by_out + at + v * LANES) = sum;
        }
}

INLINE void panels(const Product *p, const int count, int at, const Row *x, float *out, Py_ssize_t by_out)
{
    int top = 0;
    for (; top + ROWS <= p->rows; top += ROWS)
        panel(p, ROWS, count, top, at, x, out, by_out);
    if (p->rows - top == 3)
        panel(p, 3, count, top, at, x, out, by_out);
    else if (p->rows - top == 2)
        panel(p, 2, count, top, at, x, out, by_out);
    else if (p->rows - top == 1)
        panel(p, 1, count, top, at, x, out, by_out);
}

/* The product of a matrix and `width` places of rows: planes `out`, `by_out` apart. They must not be what is read. */
FOR_EACH_CPU
static void span(const Product *p, int width, const Row *x, float *out, Py_ssize_t by_out)
{
    if (width < LANES) {
        for (int r = 0; r < p->rows; r++)
            for (int j = 0; j < width; j++) {
                float sum = (p->bias ? p->bias[r] : 0) + (p->more ? p->more[r * by_out + j] : 0);
                for (int k = 0; k < p->inner; k++)
                    sum += p->matrix[r * p->inner + k] * x[k][j];
                if ((p->rectified && !(sum > 0)) || (p->kept && !(p->kept[r * p->by_kept + j] > 0)))
                    sum = 0;
                out[r * by_out + j] = sum;
            }
        return;
    }
    int at = 0;
    for (; at + PANEL * LANES <= width; at += PANEL * LANES)
        panels(p, PANEL, at, x, out, by_out);
    for (; at < width; at += LANES)
        panels(p, 1, at + LANES <= width ? at : width - LANES, x, out, by_out); /* the last may do some again */
}

/* Sines in place of `values`, and cosines: of half the angle, reduced to a quarter turn, by polynomials. */
INLINE void sines(int count, float *restrict values, float *restrict cosines)
{
    float largest = 0;
    for (int j = 0; j < count; j++)
        largest = fmaxf(largest, fabsf(values[j]));
    if (!(largest < 1e4f)) { /* where the reduction is no longer exact */
        for (int j = 0; j < count; j++) {
            cosines[j] = cosf(values[j]);
            values[j] = sinf(values[j]);
        }
        return;
    }
    for (int j = 0; j < count; j++) {
        float turns = rintf(values[j] * 0.15915494f);
        float half = 0.5f * ((values[j] - turns * 6.28125f) - turns * 1.9353072e-3f), square = half * half;
        float sine = half * (1 + square * (-1.6666667e-1f + square * (8.3333310e-3f + square * (-1.9840874e-4f
                     + square * (2.7525562e-6f - square * 2.3889859e-8f)))));
        float cosine = 1 + square * (-0.5f + square * (4.1666642e-2f + square * (-1.3888397e-3f
                       + square * (2.4760495e-5f - square * 2.6051615e-7f))));
        values[j] = 2 * sine * cosine;
        cosines[j] = 1 - 2 * sine * sine;
    }
}

/* `fit.noisy_round` of values, and its slopes. */
FOR_EACH_CPU
static void rounded_softly(Py_ssize_t n, const float *restrict values, const float *restrict noise, float temperature,
                           float *restrict rounded, float *restrict slopes)
{
    const float unit = 1 / temperature, half = 0.5f / tanhf(0.5f * unit), width = fminf(2.2f * temperature, 1);
    for (Py_ssize_t j = 0; j < n; j++) {
        float at = values[j], slope = 1;
        for (int turn = 0; turn < 2; turn++) {
            float middle = floorf(at) + 0.5f, power = expf(2 * unit * (at - middle));
            float tangent = (power - 1) / (power + 1); /* tanh */
            slope *= (1 - tangent * tangent) * half * unit;
            at = middle + tangent * half + (turn ? 0 : (noise[j] - 0.5f) * width);
        }
        rounded[j] = at;
        slopes[j] = slope;
    }
}

typedef struct {
    int count; /* of sine layers; one more has no sine */
    struct { const float *matrix, *bias; int rows, inner; } at[MOST + 1];
} Layers;

FOR_EACH_CPU
static void siren_at(const Layers *layers, Py_ssize_t n, const float *x, int channels, float *values, float *cosines,
                     float *scratch)
{
    Row rows[2 * 1024 + MOST];
    float unasked[LONGEST];
    for (Py_ssize_t start = 0; start < n; start += LONGEST) {
        int width = (int)(n - start < LONGEST ? n - start : LONGEST);
        float *kept = cosines ? cosines + start : unasked, *into = scratch;
        for (int c = 0; c < channels; c++)
            rows[c] = x + c * n + start;
        for (int i = 0; i < layers->count; i++) {
            int units = layers->at[i].rows;
            span(&(Product){layers->at[i].matrix, units, layers->at[i].inner, layers->at[i].bias}, width, rows, into, LONGEST);
            for (int r = 0; r < units; r++, kept += cosines ? n : 0) {
                sines(width, into + r * LONGEST, kept);
                rows[r] = into + r * LONGEST;
            }
            into += (Py_ssize_t)units * LONGEST;
        }
        int i = layers->count, units = layers->at[i - 1].rows;
        for (int c = 0; c < channels; c++) /* the skip connection */
            rows[units + c] = x + c * n + start;
        span(&(Product){layers->at[i].matrix, layers->at[i].rows, layers->at[i].inner, layers->at[i].bias}, width, rows,
             values + start, n);
    }
}

/* `layers` are transposed, the last layer first; the last of them sees the gradient by `values`, too: the skip. */
FOR_EACH_CPU
static void siren_back(const Layers *layers, Py_ssize_t n, const float *by_values, int out, const float *cosines,
                       Py_ssize_t units, float *by_x, float *scratch)
{
    Row rows[2 * 1024 + MOST];
    for (Py_ssize_t start = 0; start < n; start += LONGEST) {
        int width = (int)(n - start < LONGEST ? n - start : LONGEST);
        const float *kept = cosines + units * n + start;
        float *into = scratch;
        for (int c = 0; c < out; c++)
            rows[c] = by_values + c * n + start;
        for (int i = 0; i < layers->count; i++) {
            int count = layers->at[i].rows;
            span(&(Product){layers->at[i].matrix, count, layers->at[i].inner}, width, rows, into, LONGEST);
            kept -= count * n;
            for (int r = 0; r < count; r++) {
                float *row = into + r * LONGEST;
                const float *cosine = kept + r * n;
                for (int j = 0; j < width; j++)
                    row[j] *= cosine[j];
                rows[r] = row;
            }
            into += (Py_ssize_t)count * LONGEST;
        }
        int i = layers->count, count = layers->at[i - 1].rows;
        for (int c = 0; c < out; c++)
            rows[count + c] = by_values + c * n + start;
        span(&(Product){layers->at[i].matrix, layers->at[i].rows, layers->at[i].inner}, width, rows, by_x + start, n);
    }
}

typedef struct {
    const void *at;
    Py_ssize_t shape[4], by[4]; /* strides in items */
} Planes;

/* What a 3x3 kernel makes of planes (inner, h + 2, w + 2), (rows, h, w). */
FOR_EACH_CPU
static void convolved(const Product *product, const Planes *in, const Planes *out, Row *rows)
{
    int channels = (int)in->shape[0];
    for (Py_ssize_t y = 0; y < out->shape[1]; y++) {
        for (int c = 0, k = 0; c < channels; c++)
            for (int dy = 0; dy < 3; dy++)
                for (int dx = 0; dx < 3; dx++)
                    rows[k++] = (const float *)in->at + c * in->by[0] + (y + dy) * in->by[1] + dx;
        Product own = *product;
        if (own.kept)
            own.kept += y * out->shape[2];
        span(&own, (int)out->shape[2], rows, (float *)out->at + y * out->by[1], out->by[0]);
    }
}

/* The rate model of a level. Of `above`, (2, 2, hidden, features) by phase, of `back_above`, (2, features, 2 * hidden)
 * by row of phases; the other matrices that lead back are transposed. */
typedef struct {
    int channels, hidden, middle, features;
    const float *causal, *bias, *mid, *mid_bias, *head, *head_bias, *above;
    const float *back_head, *back_mid, *back_causal, *back_above;
} Rate;

typedef struct {
    const float *values, *padded, *mask, *trunk; /* padded: two rows above, two columns beside */
    Py_ssize_t height, width, by_row, by_plane, by_trunk_row, by_trunk_plane;
    float *gradient, *by_trunk;                  /* laid out like `padded` and `trunk`; NULL if not wanted */
    float *mean, *log_scale;                     /* (C, h, w); NULL if not wanted */
} Stripe;

/* Bits of values, and their gradients by offset (value - mean) and log scale: `objective.laplace`. */
INLINE float laplace(int width, const float *restrict values, const float *restrict mean, const float *restrict log_scale,
                     const float *restrict mask, float *restrict by_offset, float *restrict by_log)
{
    float bits[LONGEST], total = 0;
    for (int j = 0; j < width; j++) {
        float offset = values[j] - mean[j], raw_log = log_scale[j], live = PER_BIT * mask[j];
        float raw = expf(fminf(fmaxf(raw_log, LEAST_LOG), MOST_LOG)), rising = 1 / (raw + LEAST_SCALE);
        float d = fabsf(offset), far = expf((-0.5f - d) * rising), near = expf(-fabsf(d - 0.5f) * rising);
        float whole = expf(-rising);
        int inside = d < 0.5f;
        float p = inside ? fmaxf(1 - 0.5f * (far + near), 1e-9f) : 0.5f * (1 - whole);
        float outwards = inside ? 0 : (d - 0.5f) * rising;
        float by_d = inside ? 0.5f * (near - far) * rising / p : rising;
        float by_p = inside ? far * (0.5f + d) + near * (0.5f - d) : whole;
        float by_b = (0.5f * by_p * rising / p - outwards) * rising;
        bits[j] = (outwards - logf(p)) * live;
        by_offset[j] = by_d * (offset > 0 ? live : offset < 0 ? -live : 0);
        by_log[j] = by_b * raw * (raw_log >= LEAST_LOG && raw_log <= MOST_LOG ? live : 0);
    }
    for (int j = 0; j < width; j++)
        total += bits[j];
    return total;
}

FOR_EACH_CPU
static double stripe(const Rate *m, const Stripe *s, float *scratch, Row *rows)
{
    const int C = m->channels, H = m->hidden, M = m->middle, F = m->features, L = LONGEST;
    float *first = scratch, *hidden = first + H * L, *middle = hidden + H * L, *heads = middle + M * L;
    float *by_heads = heads + 2 * C * L, *by_middle = by_heads + 2 * C * L, *by_hidden = by_middle + M * L;
    float *taps = by_hidden + H * L, *phases = taps + TAPS * C * L, *by_features = phases + H * L, *ones = by_features + F * L;
    double total = 0;
    for (int j = 0; j < L; j++)
        ones[j] = 1;
    for (Py_ssize_t y = 0; y < s->height; y++)
        for (Py_ssize_t left = 0; left < s->width; left += L) {
            const int width = (int)(s->width - left < L ? s->width - left : L), half = (width + 1) / 2, row = y & 1;
            const Py_ssize_t above = y / 2 * s->by_trunk_row + left / 2, own = (y + 2) * s->by_row + left + 2;
            const float *trunk = s->trunk ? s->trunk + above : NULL;
            for (int p = 0; p < 2; p++) { /* what the trunk says of even and odd columns */
                float *phase = phases + p * (L / 2);
                if (trunk) {
                    for (int k = 0; k < F; k++)
                        rows[k] = trunk + k * s->by_trunk_plane;
                    span(&(Product){m->above + (2 * row + p) * H * F, H, F, m->bias + (2 * row + p) * H}, half, rows, phase, L);
                } else
                    for (int o = 0; o < H; o++)
                        for (int j = 0; j < half; j++)
                            phase[o * L + j] = m->bias[o];
            }
            for (int o = 0; o < H; o++)
                for (int j = 0; j < half; j++) {
                    first[o * L + 2 * j] = phases[o * L + j];
                    first[o * L + 2 * j + 1] = phases[o * L + L / 2 + j];
                }
            for (int c = 0; c < C; c++)
                for (int t = 0; t < TAPS; t++)
                    rows[c * TAPS + t] = s->padded + c * s->by_plane + own + TAP_Y[t] * s->by_row + TAP_X[t];
            span(&(Product){m->causal, H, TAPS * C, .more = first, .rectified = 1}, width, rows, hidden, L);
            for (int o = 0; o < H; o++)
                rows[o] = hidden + o * L;
            span(&(Product){m->mid, M, H, m->mid_bias, .rectified = 1}, width, rows, middle, L);
            for (int o = 0; o < M; o++)
                rows[o] = middle + o * L;
            span(&(Product){m->head, 2 * C, M, m->head_bias}, width, rows, heads, L);
            if (s->mean)
                for (int c = 0; c < C; c++) {
                    Py_ssize_t at = (c * s->height + y) * s->width + left;
                    memcpy(s->mean + at, heads + c * L, width * sizeof(float));
                    memcpy(s->log_scale + at, heads + (C + c) * L, width * sizeof(float));
                }
            if (!s->gradient)
                continue;
            for (int c = 0; c < C; c++) {
                float *by_mean = by_heads + c * L, *by_value = s->gradient + c * s->by_plane + own;
                const float *mask = s->mask ? s->mask + y * s->width + left : ones;
                total += laplace(width, s->padded + c * s->by_plane + own, heads + c * L, heads + (C + c) * L, mask, by_mean,
                                 by_heads + (C + c) * L);
                for (int j = 0; j < width; j++) {
                    by_value[j] += by_mean[j];
                    by_mean[j] = -by_mean[j];
                }
            }
            for (int o = 0; o < 2 * C; o++)
                rows[o] = by_heads + o * L;
            span(&(Product){m->back_head, M, 2 * C, .kept = middle, .by_kept = L}, width, rows, by_middle, L);
            for (int o = 0; o < M; o++)
                rows[o] = by_middle + o * L;
            span(&(Product){m->back_mid, H, M, .kept = hidden, .by_kept = L}, width, rows, by_hidden, L);
            for (int o = 0; o < H; o++)
                rows[o] = by_hidden + o * L;
            span(&(Product){m->back_causal, TAPS * C, H}, width, rows, taps, L);
            for (int c = 0; c < C; c++)
                for (int t = 0; t < TAPS; t++) {
                    float *into = s->gradient + c * s->by_plane + own + TAP_Y[t] * s->by_row + TAP_X[t];
                    const float *tap = taps + (c * TAPS + t) * L;
                    for (int j = 0; j < width; j++)
                        into[j] += tap[j];
                }
            if (!trunk)
                continue;
            for (int o = 0; o < H; o++) {
                if (width % 2)
                    by_hidden[o * L + width] = 0;
                for (int j = 0; j < half; j++) {
                    phases[o * L + j] = by_hidden[o * L + 2 * j];
                    phases[o * L + L / 2 + j] = by_hidden[o * L + 2 * j + 1];
                }
                rows[o] = phases + o * L;
                rows[H + o] = phases + o * L + L / 2;
            }
            span(&(Product){m->back_above + row * F * 2 * H, F, 2 * H}, half, rows, by_features, L);
            for (int k = 0; k < F; k++) {
                float *into = s->by_trunk + above + k * s->by_trunk_plane;
                for (int j = 0; j < half; j++)
                    into[j] += by_features[k * L + j];
            }
        }
    return total;
}

/* Add the products of all pairs of rows, summed over `width` places, to (rows, columns) numbers. */
FOR_EACH_CPU
static void add_outer(int rows, int columns, int width, const float *a, const float *b, float *sums)
{
    const int whole = width / LANES * LANES;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            const float *x = a + r * LONGEST, *y = b + c * LONGEST;
            Vector even = {0}, odd = {0};
            int j = 0;
            for (; j + 2 * LANES <= whole; j += 2 * LANES) {
                even += *(const Vector *)(x + j) * *(const Vector *)(y + j);
                odd += *(const Vector *)(x + j + LANES) * *(const Vector *)(y + j + LANES);
            }
            if (j < whole)
                even += *(const Vector *)(x + j) * *(const Vector *)(y + j);
            float sum = 0;
            for (int i = 0; i < LANES; i++)
                sum += even[i] + odd[i];
            for (j = whole; j < width; j++)
                sum += x[j] * y[j];
            sums[r * columns + c] += sum;
        }
}

/* The last layers of the rate model, and the gradients of the bits by them: first, (H, n), is before they are rectified. */
typedef struct {
    int channels, hidden, middle;
    Py_ssize_t by_first, by_value; /* from one plane to the next */
    const float *first, *values, *shift, *mid, *mid_bias, *head, *head_bias, *back_mid, *back_head;
    float *by_shift, *by_mid, *by_mid_bias, *by_head, *by_head_bias;
} Ends;

FOR_EACH_CPU
static void ends_back(const Ends *m, Py_ssize_t n, float *scratch, Row *rows)
{
    const int C = m->channels, H = m->hidden, M = m->middle, L = LONGEST;
    float *hidden = scratch, *middle = hidden + H * L, *heads = middle + M * L, *by_heads = heads + 2 * C * L;
    float *by_middle = by_heads + 2 * C * L, *by_hidden = by_middle + M * L, *ones = by_hidden + H * L;
    for (int j = 0; j < L; j++)
        ones[j] = 1;
    for (Py_ssize_t start = 0; start < n; start += L) {
        const int width = (int)(n - start < L ? n - start : L);
        for (int o = 0; o < H; o++) {
            rows[o] = hidden + o * L;
            for (int j = 0; j < width; j++)
                hidden[o * L + j] = fmaxf(m->first[o * m->by_first + start + j] + m->shift[o], 0);
        }
        span(&(Product){m->mid, M, H, m->mid_bias, .rectified = 1}, width, rows, middle, L);
        for (int o = 0; o < M; o++)
            rows[o] = middle + o * L;
        span(&(Product){m->head, 2 * C, M, m->head_bias}, width, rows, heads, L);
        for (int c = 0; c < C; c++) {
            float *by_mean = by_heads + c * L;
            laplace(width, m->values + c * m->by_value + start, heads + c * L, heads + (C + c) * L, ones, by_mean, by_heads + (C + c) * L);
            for (int j = 0; j < width; j++)
                by_mean[j] = -by_mean[j];
        }
        for (int o = 0; o < 2 * C; o++)
            rows[o] = by_heads + o * L;
        span(&(Product){m->back_head, M, 2 * C, .kept = middle, .by_kept = L}, width, rows, by_middle, L);
        for (int o = 0; o < M; o++)
            rows[o] = by_middle + o * L;
        span(&(Product){m->back_mid, H, M, .kept = hidden, .by_kept = L}, width, rows, by_hidden, L);
        add_outer(H, 1, width, by_hidden, ones, m->by_shift);
        add_outer(M, H, width, by_middle, hidden, m->by_mid);
        add_outer(M, 1, width, by_middle, ones, m->by_mid_bias);
        add_outer(2 * C, M, width, by_heads, middle, m->by_head);
        add_outer(2 * C, 1, width, by_heads, ones, m->by_head_bias);
    }
}

/* What `entropy` knows of a level: integers, or these by powers of two, in doubles, whose sums are exact in any order. */
typedef struct {
    int channels, hidden, middle;
    const double *causal, *mid, *mid_bias, *head, *head_bias, *least, *most;
} Exact;

enum { CELLS = 32, WIDE = 8 };
typedef double Wide __attribute__((vector_size(8 * WIDE), aligned(8)));

/* What a matrix (inner, rows) makes of (inner, CELLS), plus a bias or nothing: (rows, CELLS), rounded down. */
FOR_EACH_CPU
static void exact_product(int rows, int inner, const double *matrix, const double *bias, const double *x, double *out)
{
    for (int top = 0; top < rows; top += 2) {
        const int next = top + 1 < rows; /* of an odd number of rows the last is done twice */
        Wide one[CELLS / WIDE], two[CELLS / WIDE];
        for (int v = 0; v < CELLS / WIDE; v++) {
            one[v] = (bias ? bias[top] : 0) - (Wide){0};
            two[v] = (bias ? bias[top + next] : 0) - (Wide){0};
        }
        for (int k = 0; k < inner; k++) {
            const double first = matrix[k * rows + top], second = matrix[k * rows + top + next];
            for (int v = 0; v < CELLS / WIDE; v++) {
                Wide value = *(const Wide *)(x + k * CELLS + v * WIDE);
                one[v] += first * value;
                two[v] += second * value;
            }
        }
        for (int v = 0; v < CELLS / WIDE; v++) {
            *(Wide *)(out + top * CELLS + v * WIDE) = one[v];
            *(Wide *)(out + (top + next) * CELLS + v * WIDE) = two[v];
        }
    }
    for (int j = 0; j < rows * CELLS; j++)
        out[j] = floor(out[j]);
}

INLINE void clipped(double *values, int count, double least, double most)
{
    for (int j = 0; j < count; j++)
        values[j] = fmin(fmax(values[j], least), most);
}

/* Rounded means and rows of the table of n cells, at `places` of padded planes; `above` is of all cells of a block. */
FOR_EACH_CPU
static void symbols_at(const Exact *m, Py_ssize_t n, const double *padded, Py_ssize_t by_plane, const int64_t *places,
                       const int64_t *offsets, const float *above, const int64_t *cells, int64_t *mean, int64_t *row,
                       double *scratch)
{
    const int C = m->channels, H = m->hidden, M = m->middle;
    double *context = scratch, *hidden = context + TAPS * C * CELLS, *middle = hidden + H * CELLS, *out = middle + M * CELLS;
    for (Py_ssize_t start = 0; start < n; start += CELLS) {
        const int count = (int)(n - start < CELLS ? n - start : CELLS);
        for (int c = 0; c < C; c++)
            for (int t = 0; t < TAPS; t++) {
                double *taps = context + (c * TAPS + t) * CELLS;
                for (int i = 0; i < count; i++)
                    taps[i] = padded[c * by_plane + places[start + i] + offsets[t]];
                for (int i = count; i < CELLS; i++)
                    taps[i] = 0;
            }
        exact_product(H, TAPS * C, m->causal, NULL, context, hidden);
        for (int i = 0; i < count; i++) {
            const float *from = above + cells[start + i] * H;
            for (int o = 0; o < H; o++)
                hidden[o * CELLS + i] += from[o];
        }
        clipped(hidden, H * CELLS, 0, 65536);
        exact_product(M, H, m->mid, m->mid_bias, hidden, middle);
        clipped(middle, M * CELLS, 0, 65536);
        exact_product(2 * C, M, m->head, m->head_bias, middle, out);
        for (int c = 0; c < 2 * C; c++)
            clipped(out + c * CELLS, CELLS, m->least[c], m->most[c]);
        for (int i = 0; i < count; i++)
            for (int c = 0; c < C; c++) {
                const int64_t whole = (int64_t)out[c * CELLS + i], at = (start + i) * C + c;
                row[at] = (int64_t)out[(C + c) * CELLS + i] * 16 + (whole & 15);
                mean[at] = whole >> 4;
            }
    }
}

/* From here on: what Python sees. Arrays are checked, then the interpreter is let go. */

enum { HELD = 3 * MOST, OWNED = 4 };
typedef struct {
    Py_buffer views[HELD];
    void *owned[OWNED];
    int count, owns, failed;
} Held;

/* `result`, or None without one, or NULL after a failure; whatever is held is let go. */
static PyObject *finished(Held *held, PyObject *result)
{
    for (int i = 0; i < held->count; i++)
        PyBuffer_Release(&held->views[i]);
    for (int i = 0; i < held->owns; i++)
        free(held->owned[i]);
    return held->failed || result ? result : Py_BuildValue("");
}

/* An array of these sizes, -1 for any, of floats, doubles or int64 ('f', 'd' or 'l'). Rows are without gaps; `packed`:
 * everything is. */
static Planes array_of(char kind, Held *held, PyObject *object, int writable, int packed, int dims, const Py_ssize_t *sizes)
{
    const Py_ssize_t item = kind == 'f' ? 4 : 8;
    Planes found = {0};
    if (held->failed)
        return found;
    held->failed = 1;
    if (held->count == HELD) {
        PyErr_SetString(PyExc_ValueError, "too many arrays");
        return found;
    }
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)))
        return found;
    held->count++;
    const char found_kind = view->format[0] == 'q' ? 'l' : view->format[0];
    if (found_kind != kind || view->format[1] || view->itemsize != item || view->ndim != dims) {
        PyErr_Format(PyExc_ValueError, "expected type %c of %d dimensions, found %s of %d", kind, dims, view->format, view->ndim);
        return found;
    }
    Py_ssize_t gapless = item;
    for (int i = dims - 1; i >= 0; i--) {
        found.shape[i] = view->shape[i];
        found.by[i] = view->strides[i] / item;
        if (sizes[i] >= 0 && view->shape[i] != sizes[i]) {
            PyErr_Format(PyExc_ValueError, "expected size %zd, found %zd", sizes[i], view->shape[i]);
            return found;
        }
        if (view->shape[i] > 1 && (i == dims - 1 || packed) && view->strides[i] != gapless) {
            PyErr_SetString(PyExc_ValueError, "expected an array without gaps");
            return found;
        }
        gapless *= view->shape[i];
    }
    found.at = view->buf;
    held->failed = 0;
    return found;
}

static Planes array(Held *held, PyObject *object, int writable, int packed, int dims, const Py_ssize_t *sizes)
{
    return array_of('f', held, object, writable, packed, dims, sizes);
}

#define SIZES(...) (int)(sizeof((Py_ssize_t[]){__VA_ARGS__}) / sizeof(Py_ssize_t)), (Py_ssize_t[]){__VA_ARGS__}
#define NUMBERS(kind, object, ...) array_of(kind, &held, object, 0, 1, SIZES(__VA_ARGS__)).at
#define READ(object, ...) array(&held, object, 0, 1, SIZES(__VA_ARGS__))
#define WRITE(object, ...) array(&held, object, 1, 1, SIZES(__VA_ARGS__))

/* Room for so many items, at most OWNED times, NULL after a failure. */
static void *memory(Held *held, Py_ssize_t count, size_t size)
{
    void *found = held->failed ? NULL : malloc((size_t)(count ? count : 1) * size);
    if (!found && !held->failed) {
        held->failed = 1;
        PyErr_NoMemory();
    }
    if (found)
        held->owned[held->owns++] = found;
    return found;
}

/* Matrices, and biases if there are any, of a tuple; `inner` rows go in, and the last layer sees `skipped` more. */
static Layers layers_of(Held *held, PyObject *tuple, int each, Py_ssize_t inner, Py_ssize_t skipped, Py_ssize_t *units)
{
    Layers found = {0};
    if (held->failed)
        return found;
    Py_ssize_t count = PyTuple_Size(tuple) / each;
    if (count < 2 || count > MOST + 1 || inner > 1024 || skipped > 1024) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "too few layers, or too many");
        held->failed = 1;
        return found;
    }
    found.count = (int)count - 1;
    *units = 0;
    for (int i = 0; i < count && !held->failed; i++) {
        Planes matrix = array(held, PyTuple_GetItem(tuple, each * i), 0, 1, SIZES(-1, i < found.count ? inner : inner + skipped));
        found.at[i].matrix = matrix.at;
        found.at[i].rows = (int)matrix.shape[0];
        found.at[i].inner = (int)matrix.shape[1];
        if (each > 1)
            found.at[i].bias = array(held, PyTuple_GetItem(tuple, each * i + 1), 0, 1, SIZES(matrix.shape[0])).at;
        inner = matrix.shape[0];
        if (inner > 1024 && !held->failed) {
            PyErr_SetString(PyExc_ValueError, "a layer of more than 1024 units");
            held->failed = 1;
        }
        *units += i < found.count ? inner : 0;
    }
    return found;
}

static PyObject *siren(PyObject *module, PyObject *arguments)
{
    PyObject *x_object, *tuple, *values_object, *cosines_object;
    if (!PyArg_ParseTuple(arguments, "OO!OO", &x_object, &PyTuple_Type, &tuple, &values_object, &cosines_object))
        return NULL;
    Held held = {0};
    Py_ssize_t units = 0;
    Planes x = READ(x_object, -1, -1);
    Layers layers = layers_of(&held, tuple, 2, x.shape[0], x.shape[0], &units);
    Planes values = WRITE(values_object, layers.at[layers.count].rows, x.shape[1]);
    Planes cosines = {0};
    if (!Py_IsNone(cosines_object))
        cosines = WRITE(cosines_object, units, x.shape[1]);
    float *scratch = memory(&held, units * LONGEST, sizeof(float));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        siren_at(&layers, x.shape[1], x.at, (int)x.shape[0], (float *)values.at, (float *)cosines.at, scratch);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *siren_backward(PyObject *module, PyObject *arguments)
{
    PyObject *by_values_object, *tuple, *cosines_object, *by_x_object;
    if (!PyArg_ParseTuple(arguments, "OO!OO", &by_values_object, &PyTuple_Type, &tuple, &cosines_object, &by_x_object))
        return NULL;
    Held held = {0};
    Py_ssize_t units = 0;
    Planes by_values = READ(by_values_object, -1, -1);
    Layers layers = layers_of(&held, tuple, 1, by_values.shape[0], by_values.shape[0], &units);
    Planes cosines = READ(cosines_object, units, by_values.shape[1]);
    Planes by_x = WRITE(by_x_object, layers.at[layers.count].rows, by_values.shape[1]);
    float *scratch = memory(&held, units * LONGEST, sizeof(float));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        siren_back(&layers, by_values.shape[1], by_values.at, (int)by_values.shape[0], cosines.at, units, (float *)by_x.at, scratch);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *convolve(PyObject *module, PyObject *arguments)
{
    PyObject *planes_object, *kernel_object, *bias_object, *kept_object, *out_object;
    int rectified;
    if (!PyArg_ParseTuple(arguments, "OOOOpO", &planes_object, &kernel_object, &bias_object, &kept_object, &rectified, &out_object))
        return NULL;
    Held held = {0};
    Planes planes = array(&held, planes_object, 0, 0, SIZES(-1, -1, -1));
    Planes kernel = READ(kernel_object, -1, planes.shape[0], 3, 3);
    Py_ssize_t rows = kernel.shape[0], height = planes.shape[1] - 2, width = planes.shape[2] - 2;
    Planes out = array(&held, out_object, 1, 0, SIZES(rows, height > 0 ? height : 0, width > 0 ? width : 0));
    Product product = {kernel.at, (int)rows, (int)(9 * planes.shape[0]), .rectified = rectified};
    if (!Py_IsNone(bias_object))
        product.bias = READ(bias_object, rows).at;
    if (!Py_IsNone(kept_object)) {
        product.kept = READ(kept_object, rows, height, width).at;
        product.by_kept = height * width;
    }
    Row *list = memory(&held, product.inner, sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        convolved(&product, &planes, &out, list);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

/* Planes (C, h, w) with two rows of zeros above and two columns beside. */
static float *padded(Held *held, const Planes *values, Py_ssize_t *by_row)
{
    Py_ssize_t channels = values->shape[0], height = values->shape[1], width = values->shape[2];
    *by_row = width + 4;
    float *found = memory(held, channels * (height + 2) * *by_row, sizeof(float));
    if (!found)
        return NULL;
    memset(found, 0, (size_t)(channels * (height + 2) * *by_row) * sizeof(float));
    for (Py_ssize_t c = 0; c < channels; c++)
        for (Py_ssize_t y = 0; y < height; y++)
            memcpy(found + (c * (height + 2) + y + 2) * *by_row + 2,
                   (const float *)values->at + c * values->by[0] + y * values->by[1],
                   (size_t)width * sizeof(float));
    return found;
}

static PyObject *rate(PyObject *module, PyObject *arguments)
{
    PyObject *values_object, *trunk_object, *tuple, *mask_object, *one_object, *two_object;
    int gradients;
    if (!PyArg_ParseTuple(arguments, "OOO!OpOO", &values_object, &trunk_object, &PyTuple_Type, &tuple, &mask_object, &gradients,
                          &one_object, &two_object))
        return NULL;
    if (PyTuple_Size(tuple) != 11) {
        PyErr_SetString(PyExc_ValueError, "expected 11 arrays");
        return NULL;
    }
    Held held = {0};
    PyObject *part[11];
    for (int i = 0; i < 11; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    const int deep = !Py_IsNone(trunk_object);
    Planes values = array(&held, values_object, 0, 0, SIZES(-1, -1, -1));
    Py_ssize_t C = values.shape[0], height = values.shape[1], width = values.shape[2];
    Planes trunk = {0};
    if (deep)
        trunk = array(&held, trunk_object, 0, 0, SIZES(-1, (height + 1) / 2, (width + 1) / 2));
    Planes causal = READ(part[0], -1, TAPS * C);
    Py_ssize_t H = causal.shape[0], F = trunk.shape[0];
    Planes bias = deep ? READ(part[1], 2, 2, H) : READ(part[1], H);
    Planes mid = READ(part[2], -1, H);
    Py_ssize_t M = mid.shape[0];
    Rate model = {(int)C, (int)H, (int)M, (int)F, causal.at, bias.at, mid.at};
    model.mid_bias = READ(part[3], M).at;
    model.head = READ(part[4], 2 * C, M).at;
    model.head_bias = READ(part[5], 2 * C).at;
    model.back_head = READ(part[6], M, 2 * C).at;
    model.back_mid = READ(part[7], H, M).at;
    model.back_causal = READ(part[8], TAPS * C, H).at;
    if (deep) {
        model.above = READ(part[9], 2, 2, H, F).at;
        model.back_above = READ(part[10], 2, F, 2 * H).at;
    }
    Stripe work = {.height = height, .width = width, .trunk = trunk.at, .by_trunk_row = trunk.by[1], .by_trunk_plane = trunk.by[0]};
    Planes by_values = {0};
    if (!Py_IsNone(mask_object))
        work.mask = READ(mask_object, height, width).at;
    if (gradients) {
        by_values = array(&held, one_object, 1, 0, SIZES(C, height, width));
        if (deep) {
            Planes by_trunk = array(&held, two_object, 1, 0, SIZES(F, (height + 1) / 2, (width + 1) / 2));
            work.by_trunk = (float *)by_trunk.at;
            if (!held.failed && (by_trunk.by[0] != trunk.by[0] || by_trunk.by[1] != trunk.by[1])) {
                held.failed = 1;
                PyErr_SetString(PyExc_ValueError, "expected a trunk and its gradient with the same strides");
            }
        }
    } else {
        work.mean = (float *)WRITE(one_object, C, height, width).at;
        work.log_scale = (float *)WRITE(two_object, C, height, width).at;
    }
    float *around = NULL, *gradient = NULL, *scratch = NULL;
    Row *rows = NULL;
    double bits = 0;
    if (!held.failed)
        around = padded(&held, &values, &work.by_row);
    if (gradients)
        gradient = memory(&held, C * (height + 2) * work.by_row, sizeof(float));
    scratch = memory(&held, (4 * H + 2 * M + (4 + TAPS) * C + F + 1) * LONGEST, sizeof(float));
    rows = memory(&held, 2 * H + M + F + TAPS * C, sizeof(Row));
    if (!held.failed) {
        work.padded = around;
        work.by_plane = (height + 2) * work.by_row;
        work.gradient = gradient;
        Py_BEGIN_ALLOW_THREADS
        if (gradient)
            memset(gradient, 0, (size_t)(C * work.by_plane) * sizeof(float));
        bits = stripe(&model, &work, scratch, rows);
        for (Py_ssize_t c = 0; gradient && c < C; c++)
            for (Py_ssize_t y = 0; y < height; y++) {
                float *into = (float *)by_values.at + c * by_values.by[0] + y * by_values.by[1];
                const float *from = gradient + c * work.by_plane + (y + 2) * work.by_row + 2;
                for (Py_ssize_t x = 0; x < width; x++)
                    into[x] += from[x];
            }
        Py_END_ALLOW_THREADS
    }
    return finished(&held, held.failed ? NULL : PyFloat_FromDouble(bits));
}

static PyObject *rate_ends(PyObject *module, PyObject *arguments)
{
    PyObject *first_object, *values_object, *tuple, *found;
    if (!PyArg_ParseTuple(arguments, "OOO!O!", &first_object, &values_object, &PyTuple_Type, &tuple, &PyTuple_Type, &found))
        return NULL;
    if (PyTuple_Size(tuple) != 7 || PyTuple_Size(found) != 5) {
        PyErr_SetString(PyExc_ValueError, "expected 7 and 5 arrays");
        return NULL;
    }
    Held held = {0};
    PyObject *part[7], *by[5];
    for (int i = 0; i < 7; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    for (int i = 0; i < 5; i++)
        by[i] = PyTuple_GetItem(found, i);
    Planes first = array(&held, first_object, 0, 0, SIZES(-1, -1));
    Planes values = array(&held, values_object, 0, 0, SIZES(-1, first.shape[1])), mid = READ(part[1], -1, first.shape[0]);
    Py_ssize_t H = first.shape[0], M = mid.shape[0], C = values.shape[0];
    Ends model = {(int)C, (int)H, (int)M, first.by[0], values.by[0], first.at, values.at, .mid = mid.at};
    model.shift = READ(part[0], H).at;
    model.mid_bias = READ(part[2], M).at;
    model.head = READ(part[3], 2 * C, M).at;
    model.head_bias = READ(part[4], 2 * C).at;
    model.back_mid = READ(part[5], H, M).at;
    model.back_head = READ(part[6], M, 2 * C).at;
    model.by_shift = (float *)WRITE(by[0], H).at;
    model.by_mid = (float *)WRITE(by[1], M, H).at;
    model.by_mid_bias = (float *)WRITE(by[2], M).at;
    model.by_head = (float *)WRITE(by[3], 2 * C, M).at;
    model.by_head_bias = (float *)WRITE(by[4], 2 * C).at;
    float *scratch = memory(&held, (2 * H + 2 * M + 4 * C + 1) * LONGEST, sizeof(float));
    Row *rows = memory(&held, H + M + 2 * C, sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        ends_back(&model, first.shape[1], scratch, rows);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *round_softly(PyObject *module, PyObject *arguments)
{
    PyObject *values_object, *noise_object, *rounded_object, *slopes_object;
    float temperature;
    if (!PyArg_ParseTuple(arguments, "OOfOO", &values_object, &noise_object, &temperature, &rounded_object, &slopes_object))
        return NULL;
    Held held = {0};
    Planes values = READ(values_object, -1), noise = READ(noise_object, values.shape[0]);
    Planes rounded = WRITE(rounded_object, values.shape[0]), slopes = WRITE(slopes_object, values.shape[0]);
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        rounded_softly(values.shape[0], values.at, noise.at, temperature, (float *)rounded.at, (float *)slopes.at);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *symbols(PyObject *module, PyObject *arguments)
{
    PyObject *padded_object, *places_object, *offsets_object, *above_object, *cells_object, *tuple, *mean_object, *row_object;
    if (!PyArg_ParseTuple(arguments, "OOOOOO!OO", &padded_object, &places_object, &offsets_object, &above_object, &cells_object,
                          &PyTuple_Type, &tuple, &mean_object, &row_object))
        return NULL;
    if (PyTuple_Size(tuple) != 7) {
        PyErr_SetString(PyExc_ValueError, "expected 7 arrays");
        return NULL;
    }
    Held held = {0};
    PyObject *part[7];
    for (int i = 0; i < 7; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    Planes padded = array_of('d', &held, padded_object, 0, 1, SIZES(-1, -1));
    Planes places = array_of('l', &held, places_object, 0, 1, SIZES(-1)), above = READ(above_object, -1, -1);
    Planes mid = array_of('d', &held, part[1], 0, 1, SIZES(above.shape[1], -1));
    Py_ssize_t C = padded.shape[0], H = above.shape[1], M = mid.shape[1], n = places.shape[0];
    const int64_t *offsets = NUMBERS('l', offsets_object, TAPS), *cells = NUMBERS('l', cells_object, n), *at = places.at;
    Exact model = {(int)C, (int)H, (int)M, NUMBERS('d', part[0], TAPS * C, H), mid.at};
    model.mid_bias = NUMBERS('d', part[2], M);
    model.head = NUMBERS('d', part[3], M, 2 * C);
    model.head_bias = NUMBERS('d', part[4], 2 * C);
    model.least = NUMBERS('d', part[5], 2 * C);
    model.most = NUMBERS('d', part[6], 2 * C);
    int64_t *mean = (int64_t *)array_of('l', &held, mean_object, 1, 1, SIZES(n * C)).at;
    int64_t *row = (int64_t *)array_of('l', &held, row_object, 1, 1, SIZES(n * C)).at;
    double *scratch = memory(&held, (TAPS * C + H + M + 2 * C) * CELLS, sizeof(double));
    for (Py_ssize_t i = 0; !held.failed && i < n; i++)
        for (int t = 0; t < TAPS; t++)
            if (at[i] + offsets[t] < 0 || at[i] + offsets[t] >= padded.shape[1] || cells[i] < 0 || cells[i] >= above.shape[0]) {
                PyErr_SetString(PyExc_ValueError, "a cell lies outside of its arrays");
                held.failed = 1;
                break;
            }
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        symbols_at(&model, n, padded.at, padded.shape[1], at, offsets, above.at, cells, mean, row, scratch);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyMethodDef methods[] = {
    {"siren", siren, METH_VARARGS, "siren(x, layers, values, cosines or None)"},
    {"siren_backward", siren_backward, METH_VARARGS, "siren_backward(by_values, layers, cosines, by_x)"},
    {"convolve", convolve, METH_VARARGS, "convolve(planes, kernel, bias, kept, rectified, out)"},
    {"rate", rate, METH_VARARGS, "rate(values, trunk, parts, mask, gradients, by_values or mean, by_trunk or log_scale)"},
    {"round_softly", round_softly, METH_VARARGS, "round_softly(values, noise, temperature, rounded, slopes)"},
    {"symbols", symbols, METH_VARARGS, "symbols(padded, places, offsets, above, cells, parts, mean, row)"},
    {"rate_ends", rate_ends, METH_VARARGS, "rate_ends(first, values, parts, gradients that are added to)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }
