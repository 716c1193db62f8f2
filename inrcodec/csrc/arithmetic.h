/* What `arithmetic.c` computes, and of what. */
#ifndef INRCODEC_ARITHMETIC_H
#define INRCODEC_ARITHMETIC_H

#include <stddef.h>
#include <stdint.h>

enum {
    LONGEST = 256,     /* places of a row that go through layers at once */
    TAPS = 11,         /* of a causal context */
    NEAR = 4,          /* cells that are seen between cells, per axis; a power of 2 */
    MOST = 16,         /* layers with sines */
    MOST_UNITS = 1024, /* of a layer, or planes that go into one */
    RING = 4,          /* rows of a tile that are kept of each plane in between */
    CELLS = 32,        /* whose symbols are found at once */
};

typedef const float *Row;

typedef struct {
    int count; /* of sine layers; one more has no sine */
    struct { const float *matrix, *bias; int rows, inner; } at[MOST + 1];
} Layers;

typedef struct {
    const void *at;
    ptrdiff_t shape[4], by[4]; /* strides in items */
} Planes;

/* Along an axis, where samples lie among cells: NEAR cells of each, one after the other at most, and their weights. */
typedef struct {
    ptrdiff_t count;
    const int32_t *cells;
    const float *weights;
} Axis;

/* A kernel (rows, inner, 3, 3), and what follows. */
typedef struct {
    const float *matrix, *bias; /* bias (rows,) or NULL */
    int rectified;              /* 0 in place of what is negative */
    int residual;               /* what it sees is added */
} Kernel;

/* A SIREN and its filter. The layers that lead back are transposed, the last one first. */
typedef struct {
    Layers forwards, backwards;
    int seen, features, units;               /* planes that the filter sees, of its first layer, and all sines */
    const float *first, *first_bias, *last, *last_bias;
    const float *by_last, *by_first;         /* kernels that lead back */
} Restored;

/* A tile of a picture, and what is around it within the picture, two pixels at most. */
typedef struct {
    ptrdiff_t rows, columns, top, left; /* of x; and how many pixels less than two are around it above and on the left */
    ptrdiff_t height, width;
    const float *x;                     /* planes (C, rows, columns) */
    const float *target, *weight;       /* (3, height, width), (height, width); target NULL: only the picture is wanted */
    ptrdiff_t by_target_plane, by_target_row, by_weight_row;
    float scale;                        /* of the squared error */
    float *out;                         /* the gradient by x, or the picture (3, height, width) */
} Tile;

/* Floats that `tile` needs, and places in a list of rows. */
static inline ptrdiff_t tile_pitch(ptrdiff_t width) { return (width + 6 + 15) / 16 * 16; }

static inline ptrdiff_t tile_floats(const Restored *m, const Tile *t)
{
    ptrdiff_t planes = (RING + 2) * (ptrdiff_t)m->seen + 2 * RING * (ptrdiff_t)m->features + 3 * RING + 4;
    return planes * tile_pitch(t->width) + (2 * RING * t->columns + LONGEST) * (ptrdiff_t)m->units;
}

static inline ptrdiff_t tile_places(const Restored *m) { return 9 * (m->seen > m->features ? m->seen : m->features); }

/* What a filter sees of a tile, and what it should add: (seen, height + 4, width + 4), (3, height, width). */
typedef struct {
    ptrdiff_t height, width;
    const float *padded, *missing, *weight; /* weight (height, width) or NULL */
    float scale;                            /* of the squared error */
} Sample;

/* Floats that `filter_slopes` needs; it has twice as long a list as `tile`. */
static inline ptrdiff_t sample_floats(const Restored *m, const Sample *s)
{
    return (m->seen + 2 * (ptrdiff_t)m->features + 4) * (s->height + 4) * tile_pitch(s->width);
}

/* The rate model of a level. Of `above`, (2, 2, hidden, features) by phase, of `back_above`, (2, features, 2 * hidden)
 * by row of phases; the other matrices that lead back are transposed. */
typedef struct {
    int channels, hidden, middle, features;
    const float *causal, *bias, *mid, *mid_bias, *head, *head_bias, *above;
    const float *back_head, *back_mid, *back_causal, *back_above;
} Rate;

typedef struct {
    const float *padded, *mask, *trunk;          /* padded: two rows above, two columns beside */
    ptrdiff_t height, width, by_row, by_plane, by_trunk_row, by_trunk_plane;
    float *gradient, *by_trunk;                  /* laid out like `padded` and `trunk`; NULL if not wanted */
    float *mean, *log_scale, *bits;              /* (C, h, w), (h, w); NULL if not wanted */
} Stripe;

/* Where the features of a level come from. `above` and `back_above` are like `Rate`'s. */
typedef struct {
    int channels, features;
    const float *kernel, *bias, *above, *above_bias; /* kernel (features, C, 3, 3) */
    const float *back_kernel, *back_above;           /* (C, features, 3, 3) */
} Trunk;

/* The last layers of the rate model, and the gradients of the bits by them: first, (H, n), is before they are rectified. */
typedef struct {
    int channels, hidden, middle;
    ptrdiff_t by_first, by_value; /* from one plane to the next */
    const float *first, *values, *shift, *mid, *mid_bias, *head, *head_bias, *back_mid, *back_head;
    float *by_shift, *by_mid, *by_mid_bias, *by_head, *by_head_bias; /* NULL if not wanted */
} Ends;

/* What `entropy` knows of a level: integers, or these by powers of two, in doubles, whose sums are exact in any order. */
typedef struct {
    int channels, hidden, middle;
    const double *causal, *mid, *mid_bias, *head, *head_bias, *least, *most;
} Exact;

/* What a CPU can do. `tile` and `filter_slopes` return the error, `stripe` and `ends` the bits. */
typedef struct {
    void (*siren)(const Layers *, ptrdiff_t n, const float *x, ptrdiff_t by_x, float *values, ptrdiff_t by_values,
                  float *cosines, ptrdiff_t by_cosines, float *scratch);
    void (*convolved)(const Kernel *, const Planes *in, const Planes *out, Row *);
    void (*interpolated)(const Planes *values, const float *gains, const Axis *rows, const Axis *columns, const Planes *out,
                         float *scratch);
    void (*interpolated_back)(const Planes *by_out, const float *gains, const Axis *rows, const Axis *columns,
                              const Planes *by_values, float *scratch);
    double (*tile)(const Restored *, const Tile *, float *scratch, Row *);
    double (*filter_slopes)(const Restored *, const Sample *, float *const *slopes, float *scratch, Row *);
    void (*trunk)(const Trunk *, const Planes *padded, const Planes *coarser, const Planes *out, float *scratch, Row *);
    void (*trunk_back)(const Trunk *, const Planes *features, const Planes *by_features, const Planes *by_values,
                       const Planes *by_coarser, float *scratch, Row *);
    double (*stripe)(const Rate *, const Stripe *, float *scratch, Row *);
    double (*ends)(const Ends *, ptrdiff_t n, float *scratch, Row *);
    void (*adam)(ptrdiff_t n, float *changes, float *mean, float *square, const float *gradient, float bits, float rate,
                 int count);
    void (*rounded_softly)(ptrdiff_t n, const float *values, const float *noise, float temperature, float *rounded,
                           float *slopes);
    void (*symbols_at)(const Exact *, ptrdiff_t n, const double *padded, ptrdiff_t by_plane, const int64_t *places,
                       const int64_t *offsets, const float *above, const int64_t *cells, int64_t *mean, int64_t *row,
                       double *scratch);
} Arithmetic;

extern const Arithmetic arithmetic;
#if defined(__x86_64__) && defined(__GNUC__) /* or clang */
#define HAS_AVX
extern const Arithmetic arithmetic_avx2, arithmetic_avx512;
#endif

#endif
