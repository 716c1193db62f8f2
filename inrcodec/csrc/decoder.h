/* The range decoder that `entropy` specifies, and the values of a level that it finds. */
#ifndef INRCODEC_DECODER_H
#define INRCODEC_DECODER_H

#include "arithmetic.h"

/* Words of 32 bits, of which `at` are read, and the state: 64 bits each. */
typedef struct {
    const int64_t *words;
    int64_t count, at;
    uint64_t range, offset;
} Decoder;

/* Tables that are fixed in a prior. A row has the bounds of its symbols in units of 2**-24, and the last one's end. */
typedef struct {
    int symbols;             /* of a row; the last is the escape */
    const int32_t *bounds;   /* (rows, symbols + 1) */
    const int64_t *shifts;   /* (rows,): how many low bits are coded as they are */
    int bits;                /* that there may be of what is beyond the last symbol but one */
    const int32_t *of_bits;  /* (bits + 1,) */
} Tables;

/* The cells of a block in the order of their wavefronts, which begin and end at `ends`, (waves + 1,). */
typedef struct {
    int64_t waves;
    const int64_t *ends, *places, *cells; /* of cells in the padded planes, and in `above` */
    const int64_t *offsets;               /* of the taps */
    const float *above;
} Block;

/* Values of a block, written to padded planes. `mean` and `row` have room for those of a wavefront, `scratch` for what
 * `symbols_at` needs. 0 if the words are no such thing. */
int block_decoded(Decoder *, const Arithmetic *, const Exact *, const Tables *, const Block *, double *padded,
                  ptrdiff_t by_plane, int64_t *mean, int64_t *row, double *scratch);

#endif
