/* The arithmetic of fits, pictures and probabilities on a CPU: the layers of all networks, fused so that nothing but
 * rows of a few dozen planes is ever in flight. `arithmetic.h` says what goes in and out.
 *
 * Planes are float32 and lie row by row. All products are `span`'s: matrices (rows, inner) times the rows of planes
 * that a list of pointers names, so that a convolution, a causal context and a layer are the same to it.
 *
 * This file is for any CPU; `avx2.c` and `avx512.c` compile it again for those that can do more at once.
 */
#include <math.h>
#include <string.h>

#include "arithmetic.h"

#ifndef ARITHMETIC
#define ARITHMETIC arithmetic
#define BYTES 16 /* of a vector register */
#ifdef __aarch64__
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#endif
#define INLINE static inline __attribute__((always_inline))

/* A block of a product has ROWS * VECTORS sums, and these, VECTORS values and a weight are all in registers, with some to
 * spare: with 4 rows and 16 registers compilers spill sums, which takes twice the time. */
enum { LANES = BYTES / 4, VECTORS = 3, ROWS = REGISTERS >= 32 ? 8 : 3 };
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int Mask __attribute__((vector_size(4 * LANES), aligned(4)));
enum { WIDE = BYTES / 8, WIDEST = 4 };
enum { OUTER = REGISTERS >= 32 ? 4 : 3, ACROSS = OUTER }; /* of a block of sums of `add_outer`, rows and columns */
typedef double Wide __attribute__((vector_size(8 * WIDE), aligned(8)));

/* `entropy.CAUSAL`: where the taps of a context lie. Constants of `rate`'s Laplace distribution, and of `adam`. */
static const int TAP_Y[TAPS] = {-2, -2, -2, -2, -2, -1, -1, -1, -1, 0, 0};
static const int TAP_X[TAPS] = {-2, -1, 0, 1, 2, -2, -1, 0, 1, -2, -1};
static const float LEAST_LOG = -4, MOST_LOG = 5, LEAST_SCALE = 0.02f, PER_BIT = 1.44269504f;
static const float MEAN_KEPT = 0.9f, SQUARE_KEPT = 0.999f;

typedef struct {
    const float *matrix; /* (rows, inner) */
    int rows, inner;
    const float *bias;   /* (rows,) or NULL */
    const float *more;   /* planes that are added, laid out like the result, or NULL */
    const float *kept;   /* planes: where they are not positive, the result is 0; or NULL */
    ptrdiff_t by_kept;   /* from one of these to the next */
    int rectified;       /* 0 in place of what is negative */
    const float *seen;   /* planes that are added at last, or NULL */
    ptrdiff_t by_seen;   /* from one of these to the next */
} Product;

/* `rows` rows of a product from row `top` on, at `vectors` * LANES places from `at` on. */
INLINE void block(const Product *p, const int rows, const int vectors, int top, int at, const Row *x, float *out,
                  ptrdiff_t by_out)
{
    Vector sums[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            sums[r][v] = (p->bias ? p->bias[top + r] : 0) - (Vector){0};
            if (p->more)
                sums[r][v] += *(const Vector *)(p->more + (top + r) * by_out + at + v * LANES);
        }
    const float *matrix = p->matrix + top * p->inner;
    for (int k = 0; k < p->inner; k++) {
        Vector values[VECTORS];
        for (int v = 0; v < vectors; v++)
            values[v] = *(const Vector *)(x[k] + at + v * LANES);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sums[r][v] += matrix[r * p->inner + k] * values[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            Vector sum = sums[r][v];
            if (p->rectified)
                sum = (Vector)((Mask)sum & (sum > 0));
            if (p->kept)
                sum = (Vector)((Mask)sum & (*(const Vector *)(p->kept + (top + r) * p->by_kept + at + v * LANES) > 0));
            if (p->seen)
                sum += *(const Vector *)(p->seen + (top + r) * p->by_seen + at + v * LANES);
            *(Vector *)(out + (top + r) * by_out + at + v * LANES) = sum;
        }
}

/* All rows, in blocks of about the same height. */
INLINE void blocks(const Product *p, const int vectors, int at, const Row *x, float *out, ptrdiff_t by_out)
{
    for (int top = 0, left = (p->rows + ROWS - 1) / ROWS; left; left--) {
        const int rows = (p->rows - top + left - 1) / left;
        switch (rows) {
#define CASE(n) case n: block(p, n, vectors, top, at, x, out, by_out); break;
            CASE(1) CASE(2) CASE(3)
#if REGISTERS >= 32
            CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#endif
#undef CASE
        }
        top += rows;
    }
}

/* The product of a matrix and `width` places of rows: planes `out`, `by_out` apart. They must not be what is read. */
static __attribute__((noinline)) void span(const Product *p, int width, const Row *x, float *out, ptrdiff_t by_out)
{
    if (width < LANES) {
        for (int r = 0; r < p->rows; r++)
            for (int j = 0; j < width; j++) {
                float sum = (p->bias ? p->bias[r] : 0) + (p->more ? p->more[r * by_out + j] : 0);
                for (int k = 0; k < p->inner; k++)
                    sum += p->matrix[r * p->inner + k] * x[k][j];
                if ((p->rectified && !(sum > 0)) || (p->kept && !(p->kept[r * p->by_kept + j] > 0)))
                    sum = 0;
                out[r * by_out + j] = sum + (p->seen ? p->seen[r * p->by_seen + j] : 0);
            }
        return;
    }
    for (int at = 0; at < width;) { /* what a block does beyond `width`, it does again before it */
        if (at + LANES < width && VECTORS * LANES <= width) {
            blocks(p, VECTORS, at + VECTORS * LANES <= width ? at : width - VECTORS * LANES, x, out, by_out);
            at += VECTORS * LANES;
        } else {
            blocks(p, 1, at + LANES <= width ? at : width - LANES, x, out, by_out);
            at += LANES;
        }
    }
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
static void rounded_softly(ptrdiff_t n, const float *restrict values, const float *restrict noise, float temperature,
                           float *restrict rounded, float *restrict slopes)
{
    const float unit = 1 / temperature, half = 0.5f / tanhf(0.5f * unit), width = fminf(2.2f * temperature, 1);
    for (ptrdiff_t j = 0; j < n; j++) {
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

/* `count` rows, `apart` from each other. */
INLINE void listed(Row *rows, const float *first, ptrdiff_t apart, int count)
{
    for (int k = 0; k < count; k++)
        rows[k] = first + k * apart;
}

/* What a SIREN says at n places of planes `by_x` apart, and the cosines, (units, n), where it has sines. */
static void siren(const Layers *layers, ptrdiff_t n, const float *x, ptrdiff_t by_x, float *values, ptrdiff_t by_values,
                  float *cosines, ptrdiff_t by_cosines, float *scratch)
{
    Row rows[2 * MOST_UNITS];
    float unasked[LONGEST];
    const int channels = layers->at[0].inner, last = layers->count;
    for (ptrdiff_t start = 0; start < n; start += LONGEST) {
        int width = (int)(n - start < LONGEST ? n - start : LONGEST);
        float *kept = cosines ? cosines + start : unasked, *into = scratch;
        listed(rows, x + start, by_x, channels);
        for (int i = 0; i < last; i++) {
            int units = layers->at[i].rows;
            span(&(Product){layers->at[i].matrix, units, layers->at[i].inner, layers->at[i].bias}, width, rows, into, LONGEST);
            for (int r = 0; r < units; r++, kept += cosines ? by_cosines : 0) {
                sines(width, into + r * LONGEST, kept);
                rows[r] = into + r * LONGEST;
            }
            into += (ptrdiff_t)units * LONGEST;
        }
        listed(rows + layers->at[last - 1].rows, x + start, by_x, channels); /* the skip connection */
        span(&(Product){layers->at[last].matrix, layers->at[last].rows, layers->at[last].inner, layers->at[last].bias}, width,
             rows, values + start, by_values);
    }
}

/* The gradient by x, given that by the values. The layers are transposed, the last one first; the last of them sees the
 * gradient by the values, too: the skip. `cosines` is where those of all layers end. */
static void siren_back(const Layers *layers, ptrdiff_t n, const float *by_values, ptrdiff_t apart, const float *cosines,
                       ptrdiff_t by_cosines, float *by_x, ptrdiff_t by_plane, float *scratch)
{
    Row rows[2 * MOST_UNITS];
    const int channels = layers->at[0].inner, last = layers->count;
    for (ptrdiff_t start = 0; start < n; start += LONGEST) {
        int width = (int)(n - start < LONGEST ? n - start : LONGEST);
        const float *kept = cosines + start;
        float *into = scratch;
        listed(rows, by_values + start, apart, channels);
        for (int i = 0; i < last; i++) {
            int units = layers->at[i].rows;
            span(&(Product){layers->at[i].matrix, units, layers->at[i].inner}, width, rows, into, LONGEST);
            kept -= units * by_cosines;
            for (int r = 0; r < units; r++) {
                float *row = into + r * LONGEST;
                const float *cosine = kept + r * by_cosines;
                for (int j = 0; j < width; j++)
                    row[j] *= cosine[j];
                rows[r] = row;
            }
            into += (ptrdiff_t)units * LONGEST;
        }
        listed(rows + layers->at[last - 1].rows, by_values + start, apart, channels);
        span(&(Product){layers->at[last].matrix, layers->at[last].rows, layers->at[last].inner}, width, rows, by_x + start,
             by_plane);
    }
}

/* The 9 rows of each plane that a 3x3 kernel looks at: `at` names the planes' rows above, of the same row, and below. */
static void windows(int channels, const float *const at[3], ptrdiff_t by_plane, Row *rows)
{
    for (int c = 0; c < channels; c++)
        for (int dy = 0; dy < 3; dy++)
            for (int dx = 0; dx < 3; dx++)
                *rows++ = at[dy] + c * by_plane + dx;
}

/* What a 3x3 kernel makes of planes (inner, h + 2, w + 2), (rows, h, w). */
static void convolved(const Kernel *kernel, const Planes *in, const Planes *out, Row *rows)
{
    for (ptrdiff_t y = 0; y < out->shape[1]; y++) {
        const float *top = (const float *)in->at + y * in->by[1];
        windows((int)in->shape[0], (const float *[]){top, top + in->by[1], top + 2 * in->by[1]}, in->by[0], rows);
        span(&(Product){kernel->matrix, (int)out->shape[0], (int)(9 * in->shape[0]), kernel->bias, .rectified = kernel->rectified,
                        .seen = kernel->residual ? top + in->by[1] + 1 : NULL, .by_seen = in->by[0]},
             (int)out->shape[2], rows, (float *)out->at + y * out->by[1], out->by[0]);
    }
}

/* A ring of rows of cells that goes on to a sample: its weights by slot, the cells `held`, and those that these have `left`
 * for, -1 where there was none, or SAME. */
enum { SAME = -2 };
INLINE void gone_on(const Axis *axis, ptrdiff_t at, float weights[NEAR], int32_t held[NEAR], int32_t left[NEAR])
{
    for (int slot = 0; slot < NEAR; slot++) {
        weights[slot] = 0;
        left[slot] = SAME;
    }
    for (int i = 0; i < NEAR; i++) {
        const int32_t cell = axis->cells[NEAR * at + i], slot = cell & (NEAR - 1);
        weights[slot] += axis->weights[NEAR * at + i];
        if (held[slot] != cell)
            left[slot] = held[slot];
        held[slot] = cell;
    }
}

/* Values between cells: planes (C, h, w) times a gain each, (C, rows, columns). Along the columns first, of which few
 * rows are needed. */
static void interpolated(const Planes *values, const float *gains, const Axis *rows, const Axis *columns, const Planes *out,
                         float *scratch)
{
    const ptrdiff_t W = columns->count;
    memset(scratch, 0, (size_t)(NEAR * W) * sizeof(float));
    for (ptrdiff_t c = 0; c < values->shape[0]; c++) {
        int32_t held[NEAR] = {-1, -1, -1, -1};
        for (ptrdiff_t y = 0; y < rows->count; y++) {
            float weights[NEAR];
            int32_t left[NEAR];
            gone_on(rows, y, weights, held, left);
            for (int slot = 0; slot < NEAR; slot++) {
                if (left[slot] == SAME)
                    continue;
                const float *row = (const float *)values->at + c * values->by[0] + held[slot] * values->by[1];
                float *into = scratch + slot * W;
                for (ptrdiff_t x = 0; x < W; x++) {
                    const int32_t *near = columns->cells + NEAR * x;
                    const float *weight = columns->weights + NEAR * x;
                    into[x] = gains[c] * (weight[0] * row[near[0]] + weight[1] * row[near[1]] + weight[2] * row[near[2]]
                                          + weight[3] * row[near[3]]);
                }
            }
            float *restrict into = (float *)out->at + c * out->by[0] + y * out->by[1];
            for (ptrdiff_t x = 0; x < W; x++)
                into[x] = weights[0] * scratch[x] + weights[1] * scratch[W + x] + weights[2] * scratch[2 * W + x]
                          + weights[3] * scratch[3 * W + x];
        }
    }
}

/* Add to the gradient by a row of cells, given that by its samples, (columns,), of a gain. These become 0. */
static void add_between(const Axis *columns, float gain, float *restrict samples, float *restrict by_cells)
{
    for (ptrdiff_t x = 0; x < columns->count;) {
        const int32_t *near = columns->cells + NEAR * x;
        float sums[NEAR] = {0};
        do /* of all samples between the same cells */
            for (int i = 0; i < NEAR; i++)
                sums[i] += columns->weights[NEAR * x + i] * samples[x];
        while (++x < columns->count && !memcmp(near, columns->cells + NEAR * x, NEAR * sizeof(int32_t)));
        for (int i = 0; i < NEAR; i++)
            by_cells[near[i]] += gain * sums[i];
    }
    memset(samples, 0, (size_t)columns->count * sizeof(float));
}

/* The way back: to the gradient by the values is added, given that by what is between them. */
static void interpolated_back(const Planes *by_out, const float *gains, const Axis *rows, const Axis *columns,
                              const Planes *by_values, float *scratch)
{
    const ptrdiff_t W = columns->count;
    memset(scratch, 0, (size_t)(NEAR * W) * sizeof(float));
    for (ptrdiff_t c = 0; c < by_values->shape[0]; c++) {
        float *by_plane = (float *)by_values->at + c * by_values->by[0];
        int32_t held[NEAR] = {-1, -1, -1, -1};
        for (ptrdiff_t y = 0; y < rows->count; y++) {
            float weights[NEAR];
            int32_t left[NEAR];
            gone_on(rows, y, weights, held, left);
            for (int slot = 0; slot < NEAR; slot++)
                if (left[slot] >= 0)
                    add_between(columns, gains[c], scratch + slot * W, by_plane + left[slot] * by_values->by[1]);
            const float *restrict from = (const float *)by_out->at + c * by_out->by[0] + y * by_out->by[1];
            for (ptrdiff_t x = 0; x < W; x++)
                for (int i = 0; i < NEAR; i++)
                    scratch[i * W + x] += weights[i] * from[x];
        }
        for (int slot = 0; slot < NEAR; slot++)
            if (held[slot] >= 0)
                add_between(columns, gains[c], scratch + slot * W, by_plane + held[slot] * by_values->by[1]);
    }
}

/* What the filter sees of a row of a tile, planes `pitch` apart: what the SIREN says and some of what it sees, and beyond
 * the picture its outermost pixels. */
static void seen_row(const Restored *m, const Tile *t, ptrdiff_t y, float *row, ptrdiff_t pitch, float *cosines, float *scratch)
{
    const ptrdiff_t W = t->columns, by_plane = t->rows * W;
    const float *x = t->x + y * W;
    siren(&m->forwards, W, x, by_plane, row + t->left, pitch, cosines, W, scratch);
    for (int c = 3; c < m->seen; c++)
        memcpy(row + c * pitch + t->left, x + (c - 3) * by_plane, (size_t)W * sizeof(float));
    for (int c = 0; c < m->seen; c++) {
        float *plane = row + c * pitch;
        for (ptrdiff_t k = 0; k < t->left; k++)
            plane[k] = plane[t->left];
        for (ptrdiff_t k = t->left + W; k < t->width + 4; k++)
            plane[k] = plane[t->left + W - 1];
    }
}

/* The way back: add the gradient by what the filter sees of a row to that by its pixels, (seen, columns). */
static void add_seen_row(const Restored *m, const Tile *t, const float *by_padded, ptrdiff_t pitch, float *by_seen)
{
    const ptrdiff_t W = t->columns;
    for (int c = 0; c < m->seen; c++) {
        const float *from = by_padded + c * pitch;
        float *into = by_seen + c * W;
        for (ptrdiff_t k = 0; k < t->left; k++)
            into[0] += from[k];
        for (ptrdiff_t k = 0; k < W; k++)
            into[k] += from[k + t->left];
        for (ptrdiff_t k = t->left + W; k < t->width + 4; k++)
            into[W - 1] += from[k];
    }
}

/* A row of the picture, what the SIREN says plus what the filter adds: written, or compared with the target. Then the
 * gradient by it is written, and twice the squared errors are added. */
static void picture_row(const Tile *t, ptrdiff_t y, const float *values, const float *added, ptrdiff_t pitch, float *upstream,
                        float *squares)
{
    for (int c = 0; c < 3; c++, values += pitch, added += pitch, upstream += pitch) {
        if (!t->target) {
            for (ptrdiff_t k = 0; k < t->width; k++)
                t->out[(c * t->height + y) * t->width + k] = added[k] + values[k];
            continue;
        }
        const float *target = t->target + c * t->by_target_plane + y * t->by_target_row;
        for (ptrdiff_t k = 0; k < t->width; k++) {
            float excess = added[k] + values[k] - target[k];
            upstream[k] = 2 * t->scale * excess * (t->weight ? t->weight[y * t->by_weight_row + k] : 1);
            squares[k] += excess * upstream[k];
        }
    }
}

/* A tile of a picture from top to bottom, a row after the other through all layers and back: rings hold the last few rows
 * of what comes in between. Rows and columns of the padded tile are two more on each side; a row of the first layer
 * of the filter, of the second, and of what leads back through each, is ready 2, 4, 4 and 4 rows later. */
static double tile(const Restored *m, const Tile *t, float *scratch, Row *rows)
{
    const ptrdiff_t h = t->height, w = t->width, W = t->columns, by_plane = t->rows * W, pitch = tile_pitch(w);
    const int seen = m->seen, F = m->features, units = m->units, back = t->target != NULL;
    float *padded = scratch, *hidden = padded + RING * seen * pitch, *by_hidden = hidden + RING * F * pitch;
    float *by_picture = by_hidden + RING * F * pitch, *by_padded = by_picture + RING * 3 * pitch;
    float *by_seen = by_padded + seen * pitch, *added = by_seen + seen * pitch, *squares = added + 3 * pitch;
    float *cosines = squares + pitch, *own = cosines + 2 * RING * units * W;
    memset(scratch, 0, (size_t)(cosines - scratch) * sizeof(float));
#define AT(ring, planes, row) ((ring) + ((row) & (RING - 1)) * (planes) * pitch)
#define COSINES(row) (cosines + ((row) & (2 * RING - 1)) * units * W)
#define ABOVE(ring, planes, row) (const float *[]){AT(ring, planes, row), AT(ring, planes, (row) + 1), AT(ring, planes, (row) + 2)}
#define SOURCE(row) ((row) < t->top ? 0 : (row) - t->top < t->rows ? (row) - t->top : t->rows - 1)
    for (ptrdiff_t step = 0; step < h + 4 + 4 * back; step++) {
        const ptrdiff_t i = step - 2, j = step - 4, y = SOURCE(step), source = SOURCE(j);
        if (step < h + 4) {
            if (step && y == SOURCE(step - 1))
                memcpy(AT(padded, seen, step), AT(padded, seen, step - 1), (size_t)(seen * pitch) * sizeof(float));
            else
                seen_row(m, t, y, AT(padded, seen, step), pitch, back ? COSINES(y) : NULL, own);
        }
        if (i >= 0 && i < h + 2) {
            windows(seen, ABOVE(padded, seen, i), pitch, rows);
            span(&(Product){m->first, F, 9 * seen, m->first_bias, .rectified = 1}, (int)w + 2, rows, AT(hidden, F, i), pitch);
        }
        if (j >= 0 && j < h) {
            windows(F, ABOVE(hidden, F, j), pitch, rows);
            span(&(Product){m->last, 3, 9 * F, m->last_bias}, (int)w, rows, added, pitch);
            picture_row(t, j, AT(padded, seen, j + 2) + 2, added, pitch, AT(by_picture, 3, j) + 2, squares);
        }
        if (j < 0 || !back)
            continue;
        if (j >= h)
            memset(AT(by_picture, 3, j), 0, (size_t)(3 * pitch) * sizeof(float));
        if (j < h + 2) {
            windows(3, ABOVE(by_picture, 3, j - 2), pitch, rows);
            span(&(Product){m->by_last, F, 27, .kept = AT(hidden, F, j), .by_kept = pitch}, (int)w + 2, rows,
                 AT(by_hidden, F, j) + 2, pitch);
        } else
            memset(AT(by_hidden, F, j), 0, (size_t)(F * pitch) * sizeof(float));
        windows(F, ABOVE(by_hidden, F, j - 2), pitch, rows);
        span(&(Product){m->by_first, seen, 9 * F}, (int)w + 4, rows, by_padded, pitch);
        for (ptrdiff_t k = 0; k < 3 * pitch; k++) /* what does not go through the filter */
            by_padded[k] += AT(by_picture, 3, j - 2)[k];
        add_seen_row(m, t, by_padded, pitch, by_seen);
        if (j + 1 < h + 4 && SOURCE(j + 1) == source)
            continue;
        siren_back(&m->backwards, W, by_seen, W, COSINES(source) + units * W, W, t->out + source * W, by_plane, own);
        for (int c = 3; c < seen; c++)
            for (ptrdiff_t k = 0; k < W; k++)
                t->out[(c - 3) * by_plane + source * W + k] += by_seen[c * W + k];
        memset(by_seen, 0, (size_t)(seen * W) * sizeof(float));
    }
#undef AT
#undef COSINES
#undef ABOVE
#undef SOURCE
    double total = 0;
    for (ptrdiff_t k = 0; k < w; k++)
        total += squares[k];
    return total / 2;
}

/* Bits of values, and, if asked for, their gradients by offset (value - mean) and log scale: `stripe.laplace`. */
INLINE void laplace(const int slopes, int width, const float *restrict values, const float *restrict mean,
                    const float *restrict log_scale, const float *restrict mask, float *restrict bits,
                    float *restrict by_offset, float *restrict by_log)
{
    for (int j = 0; j < width; j++) {
        float offset = values[j] - mean[j], raw_log = log_scale[j], live = PER_BIT * mask[j];
        float raw = expf(fminf(fmaxf(raw_log, LEAST_LOG), MOST_LOG)), rising = 1 / (raw + LEAST_SCALE);
        float d = fabsf(offset), far = expf((-0.5f - d) * rising), near = expf(-fabsf(d - 0.5f) * rising);
        float whole = expf(-rising);
        int inside = d < 0.5f;
        float p = inside ? fmaxf(1 - 0.5f * (far + near), 1e-9f) : 0.5f * (1 - whole);
        float outwards = inside ? 0 : (d - 0.5f) * rising;
        bits[j] = (outwards - logf(p)) * live;
        if (slopes) {
            float by_d = inside ? 0.5f * (near - far) * rising / p : rising;
            float by_p = inside ? far * (0.5f + d) + near * (0.5f - d) : whole;
            float by_b = (0.5f * by_p * rising / p - outwards) * rising;
            by_offset[j] = by_d * (offset > 0 ? live : offset < 0 ? -live : 0);
            by_log[j] = by_b * raw * (raw_log >= LEAST_LOG && raw_log <= MOST_LOG ? live : 0);
        }
    }
}

static __attribute__((noinline)) void laplace_bits(int width, const float *restrict values, const float *restrict mean,
                                                   const float *restrict log_scale, const float *restrict mask,
                                                   float *restrict bits)
{
    laplace(0, width, values, mean, log_scale, mask, bits, NULL, NULL);
}

static __attribute__((noinline)) void laplace_slopes(int width, const float *restrict values, const float *restrict mean,
                                                     const float *restrict log_scale, const float *restrict mask,
                                                     float *restrict bits, float *restrict by_offset, float *restrict by_log)
{
    laplace(1, width, values, mean, log_scale, mask, bits, by_offset, by_log);
}

/* What a coarser level's features, from `at` on, say of a row of a finer one, (rows, 2 * half), `by_out` apart. The
 * matrix is (2, 2, rows, features) by phase, and so is the bias. */
static void from_above(const float *above, const float *bias, int count, int features, int odd, const float *at,
                       ptrdiff_t by_plane, int half, float *phases, ptrdiff_t by_phase, float *out, ptrdiff_t by_out, Row *rows)
{
    listed(rows, at, by_plane, features);
    for (int p = 0; p < 2; p++) /* even and odd columns */
        span(&(Product){above + (2 * odd + p) * count * features, count, features, bias + (2 * odd + p) * count}, half, rows,
             phases + p * count * by_phase, by_phase);
    for (int o = 0; o < count; o++) {
        const float *even = phases + o * by_phase, *uneven = even + count * by_phase;
        for (int j = 0; j < half; j++) {
            out[o * by_out + 2 * j] = even[j];
            out[o * by_out + 2 * j + 1] = uneven[j];
        }
    }
}

/* The way back: add to the gradient by the features, from `at` on, given that by the row. The matrix is
 * (2, features, 2 * rows) by row of phases. */
static void back_above(const float *back, int count, int features, int odd, const float *by_row, ptrdiff_t apart, int width,
                       float *phases, ptrdiff_t by_phase, float *at, ptrdiff_t by_plane, float *found, Row *rows)
{
    const int half = (width + 1) / 2;
    for (int o = 0; o < count; o++) {
        float *even = phases + o * by_phase, *uneven = even + count * by_phase;
        for (int j = 0; j < width / 2; j++) {
            even[j] = by_row[o * apart + 2 * j];
            uneven[j] = by_row[o * apart + 2 * j + 1];
        }
        if (width % 2) {
            even[half - 1] = by_row[o * apart + width - 1];
            uneven[half - 1] = 0;
        }
        rows[o] = even;
        rows[count + o] = uneven;
    }
    span(&(Product){back + odd * features * 2 * count, features, 2 * count}, half, rows, found, by_phase);
    for (int k = 0; k < features; k++)
        for (int j = 0; j < half; j++)
            at[k * by_plane + j] += found[k * by_phase + j];
}

static double stripe(const Rate *m, const Stripe *s, float *scratch, Row *rows)
{
    const int C = m->channels, H = m->hidden, M = m->middle, F = m->features, L = LONGEST;
    float *first = scratch, *hidden = first + H * L, *middle = hidden + H * L, *heads = middle + M * L;
    float *by_heads = heads + 2 * C * L, *by_middle = by_heads + 2 * C * L, *by_hidden = by_middle + M * L;
    float *taps = by_hidden + H * L, *phases = taps + TAPS * C * L, *by_features = phases + H * L;
    float *bits = by_features + F * L, *totals = bits + L, *ones = totals + L;
    double total = 0;
    for (int j = 0; j < L; j++) {
        totals[j] = 0;
        ones[j] = 1;
    }
    for (ptrdiff_t y = 0; y < s->height; y++)
        for (ptrdiff_t left = 0; left < s->width; left += L) {
            const int width = (int)(s->width - left < L ? s->width - left : L), half = (width + 1) / 2, odd = y & 1;
            const ptrdiff_t above = y / 2 * s->by_trunk_row + left / 2, own = (y + 2) * s->by_row + left + 2;
            const float *mask = s->mask ? s->mask + y * s->width + left : ones;
            if (s->trunk)
                from_above(m->above, m->bias, H, F, odd, s->trunk + above, s->by_trunk_plane, half, phases, L / 2, first, L, rows);
            else
                for (int o = 0; o < H; o++)
                    for (int j = 0; j < width; j++)
                        first[o * L + j] = m->bias[o];
            for (int c = 0; c < C; c++)
                for (int t = 0; t < TAPS; t++)
                    rows[c * TAPS + t] = s->padded + c * s->by_plane + own + TAP_Y[t] * s->by_row + TAP_X[t];
            span(&(Product){m->causal, H, TAPS * C, .more = first, .rectified = 1}, width, rows, hidden, L);
            listed(rows, hidden, L, H);
            span(&(Product){m->mid, M, H, m->mid_bias, .rectified = 1}, width, rows, middle, L);
            listed(rows, middle, L, M);
            span(&(Product){m->head, 2 * C, M, m->head_bias}, width, rows, heads, L);
            if (s->mean)
                for (int c = 0; c < C; c++) {
                    ptrdiff_t at = (c * s->height + y) * s->width + left;
                    memcpy(s->mean + at, heads + c * L, width * sizeof(float));
                    memcpy(s->log_scale + at, heads + (C + c) * L, width * sizeof(float));
                }
            for (int c = 0; s->bits && c < C; c++) {
                float *sums = s->bits + y * s->width + left;
                laplace_bits(width, s->padded + c * s->by_plane + own, heads + c * L, heads + (C + c) * L, mask, bits);
                for (int j = 0; j < width; j++)
                    sums[j] = c ? sums[j] + bits[j] : bits[j];
            }
            if (!s->gradient)
                continue;
            for (int c = 0; c < C; c++) {
                float *by_mean = by_heads + c * L, *by_value = s->gradient + c * s->by_plane + own;
                laplace_slopes(width, s->padded + c * s->by_plane + own, heads + c * L, heads + (C + c) * L, mask, bits, by_mean,
                               by_heads + (C + c) * L);
                for (int j = 0; j < width; j++) {
                    totals[j] += bits[j];
                    by_value[j] += by_mean[j];
                    by_mean[j] = -by_mean[j];
                }
            }
            listed(rows, by_heads, L, 2 * C);
            span(&(Product){m->back_head, M, 2 * C, .kept = middle, .by_kept = L}, width, rows, by_middle, L);
            listed(rows, by_middle, L, M);
            span(&(Product){m->back_mid, H, M, .kept = hidden, .by_kept = L}, width, rows, by_hidden, L);
            listed(rows, by_hidden, L, H);
            span(&(Product){m->back_causal, TAPS * C, H}, width, rows, taps, L);
            for (int c = 0; c < C; c++)
                for (int t = 0; t < TAPS; t++) {
                    float *into = s->gradient + c * s->by_plane + own + TAP_Y[t] * s->by_row + TAP_X[t];
                    const float *tap = taps + (c * TAPS + t) * L;
                    for (int j = 0; j < width; j++)
                        into[j] += tap[j];
                }
            if (s->trunk)
                back_above(m->back_above, H, F, odd, by_hidden, L, width, phases, L / 2, s->by_trunk + above, s->by_trunk_plane,
                           by_features, rows);
        }
    for (int j = 0; j < L; j++)
        total += totals[j];
    return total;
}

/* A level's features, (features, h, w): of its values, padded by one, and of a coarser level's features. */
static void trunk(const Trunk *m, const Planes *padded, const Planes *coarser, const Planes *out, float *scratch, Row *rows)
{
    const int C = m->channels, F = m->features;
    const ptrdiff_t height = out->shape[1], width = out->shape[2], pitch = width + 1, by_phase = (width + 1) / 2;
    float *first = scratch, *phases = first + F * pitch, *found = phases + 2 * F * by_phase;
    for (ptrdiff_t y = 0; y < height; y++) {
        if (coarser)
            from_above(m->above, m->above_bias, F, F, y & 1, (const float *)coarser->at + y / 2 * coarser->by[1], coarser->by[0],
                       (int)by_phase, phases, by_phase, first, pitch, rows);
        const float *top = (const float *)padded->at + y * padded->by[1];
        windows(C, (const float *[]){top, top + padded->by[1], top + 2 * padded->by[1]}, padded->by[0], rows);
        span(&(Product){m->kernel, F, 9 * C, m->bias, .more = coarser ? first : NULL, .rectified = 1}, (int)width, rows, found,
             pitch);
        for (int k = 0; k < F; k++)
            memcpy((float *)out->at + k * out->by[0] + y * out->by[1], found + k * pitch, (size_t)width * sizeof(float));
    }
}

/* Add to the gradients by values and by a coarser level's features, given that by the level's features. */
static void trunk_back(const Trunk *m, const Planes *features, const Planes *by_features, const Planes *by_values,
                       const Planes *by_coarser, float *scratch, Row *rows)
{
    const int C = m->channels, F = m->features;
    const ptrdiff_t height = features->shape[1], width = features->shape[2], pitch = width + 2, by_phase = (width + 1) / 2;
    float *ring = scratch, *phases = ring + RING * F * pitch, *found = phases + 2 * F * by_phase;
    float *more = found + F * by_phase;
    memset(ring, 0, (size_t)(RING * F * pitch) * sizeof(float));
#define AT(row) (ring + ((row) & (RING - 1)) * F * pitch)
    for (ptrdiff_t y = 0; y <= height; y++) {
        if (y == height)
            memset(AT(y), 0, (size_t)(F * pitch) * sizeof(float));
        for (int k = 0; k < F && y < height; k++) {
            const float *kept = (const float *)features->at + k * features->by[0] + y * features->by[1];
            const float *from = (const float *)by_features->at + k * by_features->by[0] + y * by_features->by[1];
            float *into = AT(y) + k * pitch + 1;
            for (ptrdiff_t x = 0; x < width; x++)
                into[x] = kept[x] > 0 ? from[x] : 0;
        }
        if (by_coarser && y < height)
            back_above(m->back_above, F, F, y & 1, AT(y) + 1, pitch, (int)width, phases, by_phase,
                       (float *)by_coarser->at + y / 2 * by_coarser->by[1], by_coarser->by[0], found, rows);
        if (!y)
            continue;
        windows(F, (const float *[]){AT(y - 2), AT(y - 1), AT(y)}, pitch, rows);
        span(&(Product){m->back_kernel, C, 9 * F}, (int)width, rows, more, width);
        for (int c = 0; c < C; c++) {
            float *into = (float *)by_values->at + c * by_values->by[0] + (y - 1) * by_values->by[1];
            for (ptrdiff_t x = 0; x < width; x++)
                into[x] += more[c * width + x];
        }
    }
#undef AT
}

/* Add to numbers (rows, columns) the products of planes a and planes b, summed over all places. What is between `width` and
 * a multiple of LANES is read, too: there a must be 0. */
static void add_outer(int rows, const Row *a, ptrdiff_t by_a, int columns, const Row *b, ptrdiff_t by_b, ptrdiff_t height,
                      ptrdiff_t width, float *sums)
{
    for (int top = 0; top < rows; top += OUTER)
        for (int left = 0; left < columns; left += ACROSS) {
            Vector found[OUTER][ACROSS] = {{{0}}};
            Row own[OUTER], other[ACROSS]; /* the last of them several times, if need be */
            for (int r = 0; r < OUTER; r++)
                own[r] = a[top + r < rows ? top + r : rows - 1];
            for (int c = 0; c < ACROSS; c++)
                other[c] = b[left + c < columns ? left + c : columns - 1];
            for (ptrdiff_t y = 0; y < height; y++)
                for (ptrdiff_t at = 0; at < width; at += LANES) {
                    Vector values[ACROSS];
                    for (int c = 0; c < ACROSS; c++)
                        values[c] = *(const Vector *)(other[c] + y * by_b + at);
                    for (int r = 0; r < OUTER; r++) {
                        Vector factor = *(const Vector *)(own[r] + y * by_a + at);
                        for (int c = 0; c < ACROSS; c++)
                            found[r][c] += factor * values[c];
                    }
                }
            for (int r = 0; r < OUTER && top + r < rows; r++)
                for (int c = 0; c < ACROSS && left + c < columns; c++)
                    for (int i = 0; i < LANES; i++)
                        sums[(top + r) * columns + left + c] += found[r][c][i];
        }
}

/* Zeros in place of all of planes (count, rows, pitch) but the first `height` rows and `width` columns. */
static void beside(float *planes, int count, ptrdiff_t rows, ptrdiff_t height, ptrdiff_t width, ptrdiff_t pitch)
{
    for (int c = 0; c < count; c++)
        for (ptrdiff_t y = 0; y < rows; y++) {
            const ptrdiff_t kept = y < height ? width : 0;
            memset(planes + (c * rows + y) * pitch + kept, 0, (size_t)(pitch - kept) * sizeof(float));
        }
}

/* The squared error of a picture whose filter sees `padded`, (seen, h + 4, w + 4), and the gradients by the filter's parts. */
static double filter_slopes(const Restored *m, const Sample *s, float *const *slopes, float *scratch, Row *rows)
{
    const ptrdiff_t h = s->height, w = s->width, pitch = tile_pitch(w), plane = (h + 4) * pitch;
    const int seen = m->seen, F = m->features;
    float *padded = scratch, *hidden = padded + seen * plane, *upstream = hidden + F * plane, *by_hidden = upstream + 3 * plane;
    float *ones = by_hidden + F * plane;
    Row *list = rows + tile_places(m);
    double error = 0;
    beside(padded, seen, h + 4, h + 4, w + 4, pitch);
    beside(hidden, F, h + 4, h + 2, w + 2, pitch);
    memset(upstream, 0, (size_t)(3 * plane) * sizeof(float));
    beside(by_hidden, F, h + 4, h + 2, w + 2, pitch);
    for (int c = 0; c < seen; c++)
        for (ptrdiff_t y = 0; y < h + 4; y++)
            memcpy(padded + c * plane + y * pitch, s->padded + (c * (h + 4) + y) * (w + 4), (size_t)(w + 4) * sizeof(float));
    for (ptrdiff_t y = 0; y < h + 2; y++) {
        const float *top = padded + y * pitch;
        windows(seen, (const float *[]){top, top + pitch, top + 2 * pitch}, plane, rows);
        span(&(Product){m->first, F, 9 * seen, m->first_bias, .rectified = 1}, (int)w + 2, rows, hidden + y * pitch, plane);
    }
    for (ptrdiff_t y = 0; y < h; y++) {
        const float *top = hidden + y * pitch;
        float *own = upstream + (y + 2) * pitch + 2;
        windows(F, (const float *[]){top, top + pitch, top + 2 * pitch}, plane, rows);
        span(&(Product){m->last, 3, 9 * F, m->last_bias}, (int)w, rows, own, plane);
        for (int c = 0; c < 3; c++) {
            float sum = 0;
            for (ptrdiff_t x = 0; x < w; x++) {
                float excess = own[c * plane + x] - s->missing[(c * h + y) * w + x];
                own[c * plane + x] = 2 * s->scale * excess * (s->weight ? s->weight[y * w + x] : 1);
                sum += excess * own[c * plane + x];
            }
            error += sum;
        }
    }
    if (!slopes)
        return error / 2;
    for (ptrdiff_t y = 0; y < h + 2; y++) {
        const float *top = upstream + y * pitch;
        windows(3, (const float *[]){top, top + pitch, top + 2 * pitch}, plane, rows);
        span(&(Product){m->by_last, F, 27, .kept = hidden + y * pitch, .by_kept = plane}, (int)w + 2, rows,
             by_hidden + y * pitch, plane);
    }
    for (ptrdiff_t j = 0; j < plane; j++)
        ones[j] = 1;
    listed(list, by_hidden, plane, F);
    windows(seen, (const float *[]){padded, padded + pitch, padded + 2 * pitch}, plane, rows);
    add_outer(F, list, pitch, 9 * seen, rows, pitch, h + 2, w + 2, slopes[0]);
    add_outer(F, list, pitch, 1, (Row[]){ones}, pitch, h + 2, w + 2, slopes[1]);
    listed(list, upstream + 2 * pitch + 2, plane, 3);
    windows(F, (const float *[]){hidden, hidden + pitch, hidden + 2 * pitch}, plane, rows);
    add_outer(3, list, pitch, 9 * F, rows, pitch, h, w, slopes[2]);
    add_outer(3, list, pitch, 1, (Row[]){ones}, pitch, h, w, slopes[3]);
    return error / 2;
}

static double ends(const Ends *m, ptrdiff_t n, float *scratch, Row *rows)
{
    const int C = m->channels, H = m->hidden, M = m->middle, L = LONGEST;
    float *hidden = scratch, *middle = hidden + H * L, *heads = middle + M * L, *by_heads = heads + 2 * C * L;
    float *by_middle = by_heads + 2 * C * L, *by_hidden = by_middle + M * L, *bits = by_hidden + H * L, *totals = bits + L;
    float *ones = totals + L;
    Row *list = rows + H + M + 2 * C;
    memset(scratch, 0, (size_t)(ones - scratch) * sizeof(float));
    for (int j = 0; j < L; j++)
        ones[j] = 1;
    for (ptrdiff_t start = 0; start < n; start += L) {
        const int width = (int)(n - start < L ? n - start : L);
        for (int o = 0; o < H; o++)
            for (int j = 0; j < width; j++)
                hidden[o * L + j] = fmaxf(m->first[o * m->by_first + start + j] + m->shift[o], 0);
        listed(rows, hidden, L, H);
        span(&(Product){m->mid, M, H, m->mid_bias, .rectified = 1}, width, rows, middle, L);
        listed(rows, middle, L, M);
        span(&(Product){m->head, 2 * C, M, m->head_bias}, width, rows, heads, L);
        for (int c = 0; c < C; c++) {
            float *by_mean = by_heads + c * L;
            laplace_slopes(width, m->values + c * m->by_value + start, heads + c * L, heads + (C + c) * L, ones, bits, by_mean,
                           by_heads + (C + c) * L);
            for (int j = 0; j < width; j++) {
                totals[j] += bits[j];
                by_mean[j] = -by_mean[j];
            }
        }
        if (!m->by_shift)
            continue;
        listed(rows, by_heads, L, 2 * C);
        span(&(Product){m->back_head, M, 2 * C, .kept = middle, .by_kept = L}, width, rows, by_middle, L);
        listed(rows, by_middle, L, M);
        span(&(Product){m->back_mid, H, M, .kept = hidden, .by_kept = L}, width, rows, by_hidden, L);
        for (int j = width; j < (width + LANES - 1) / LANES * LANES; j++) /* which may be there from the places before */
            for (int o = 0; o < 2 * C + M + H; o++)
                by_heads[o * L + j] = 0;
        listed(list, by_hidden, L, H);
        add_outer(H, list, L, 1, (Row[]){ones}, L, 1, width, m->by_shift);
        listed(rows, hidden, L, H);
        listed(list, by_middle, L, M);
        add_outer(M, list, L, H, rows, L, 1, width, m->by_mid);
        add_outer(M, list, L, 1, (Row[]){ones}, L, 1, width, m->by_mid_bias);
        listed(rows, middle, L, M);
        listed(list, by_heads, L, 2 * C);
        add_outer(2 * C, list, L, M, rows, L, 1, width, m->by_head);
        add_outer(2 * C, list, L, 1, (Row[]){ones}, L, 1, width, m->by_head_bias);
    }
    double total = 0;
    for (int j = 0; j < L; j++)
        total += totals[j];
    return total;
}

/* A step of Adam (see `adam`) on changes (n,), of given gradient and bits log2(1 + |change|) of each. */
static void adam(ptrdiff_t n, float *restrict changes, float *restrict mean, float *restrict square,
                 const float *restrict gradient, float bits, float rate, int count)
{
    const float own = rate / (1 - powf(MEAN_KEPT, (float)count)), unbiased = 1 / (1 - powf(SQUARE_KEPT, (float)count));
    for (ptrdiff_t j = 0; j < n; j++) {
        float change = changes[j], sign = change > 0 ? 1 : change < 0 ? -1 : 0;
        float slope = gradient[j] + bits * PER_BIT * sign / (1 + fabsf(change));
        mean[j] += (1 - MEAN_KEPT) * (slope - mean[j]);
        square[j] += (1 - SQUARE_KEPT) * (slope * slope - square[j]);
        changes[j] = change - own * mean[j] / (sqrtf(square[j] * unbiased) + 1e-8f);
    }
}

/* What a matrix (inner, rows) makes of (inner, CELLS), plus a bias or nothing: (rows, CELLS), rounded down. */
static void exact_product(int rows, int inner, const double *matrix, const double *bias, const double *x, double *out)
{
    for (int top = 0; top < rows; top += 2)
        for (int at = 0; at < CELLS; at += WIDEST * WIDE) {
            const int next = top + 1 < rows; /* of an odd number of rows the last is done twice */
            Wide one[WIDEST], two[WIDEST];
            for (int v = 0; v < WIDEST; v++) {
                one[v] = (bias ? bias[top] : 0) - (Wide){0};
                two[v] = (bias ? bias[top + next] : 0) - (Wide){0};
            }
            for (int k = 0; k < inner; k++) {
                const double first = matrix[k * rows + top], second = matrix[k * rows + top + next];
                for (int v = 0; v < WIDEST; v++) {
                    Wide value = *(const Wide *)(x + k * CELLS + at + v * WIDE);
                    one[v] += first * value;
                    two[v] += second * value;
                }
            }
            for (int v = 0; v < WIDEST; v++) {
                *(Wide *)(out + top * CELLS + at + v * WIDE) = one[v];
                *(Wide *)(out + (top + next) * CELLS + at + v * WIDE) = two[v];
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
static void symbols_at(const Exact *m, ptrdiff_t n, const double *padded, ptrdiff_t by_plane, const int64_t *places,
                       const int64_t *offsets, const float *above, const int64_t *cells, int64_t *mean, int64_t *row,
                       double *scratch)
{
    const int C = m->channels, H = m->hidden, M = m->middle;
    double *context = scratch, *hidden = context + TAPS * C * CELLS, *middle = hidden + H * CELLS, *out = middle + M * CELLS;
    for (ptrdiff_t start = 0; start < n; start += CELLS) {
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

const Arithmetic ARITHMETIC = {siren, convolved, interpolated, interpolated_back, tile, filter_slopes, trunk, trunk_back,
                               stripe, ends, adam, rounded_softly, symbols_at};
