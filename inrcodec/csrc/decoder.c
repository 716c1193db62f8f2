/* Range decoding: `entropy` says what the numbers are. The words may be anyone's: nothing is read that is not there. */
#include "decoder.h"

static const uint64_t WHOLE = (uint64_t)1 << 24; /* units of a probability */

/* Where the decoder is, in units of a probability: WHOLE or more if the words are invalid. */
static uint64_t place(const Decoder *decoder) { return decoder->offset / (decoder->range >> 24); }

static void take(Decoder *decoder, uint64_t low, uint64_t high)
{
    const uint64_t unit = decoder->range >> 24;
    decoder->offset -= unit * low;
    decoder->range = unit * (high - low);
    if (decoder->range >> 32)
        return;
    decoder->range <<= 32;
    decoder->offset <<= 32;
    if (decoder->at < decoder->count)
        decoder->offset |= (uint64_t)decoder->words[decoder->at++];
}

/* The next of so many symbols, -1 if there is none. */
static int symbol(Decoder *decoder, int count, const int32_t *bounds)
{
    const uint64_t at = place(decoder);
    if (at >= WHOLE)
        return -1;
    int found = 0;
    for (int i = 1; i < count; i++)
        found += bounds[i] <= (int32_t)at;
    take(decoder, (uint64_t)bounds[found], (uint64_t)bounds[found + 1]);
    return found;
}

/* The next number below 2**bits, -1 if there is none. */
static int64_t uniform(Decoder *decoder, int bits)
{
    const uint64_t at = place(decoder), width = WHOLE >> bits, number = at / width;
    if (at >= WHOLE)
        return -1;
    take(decoder, number * width, (number + 1) * width);
    return (int64_t)number;
}

int block_decoded(Decoder *decoder, const Arithmetic *own, const Exact *model, const Tables *tables, const Block *block,
                  double *padded, ptrdiff_t by_plane, int64_t *mean, int64_t *row, double *scratch)
{
    const int C = model->channels, middle = tables->symbols / 2 - 1, escape = tables->symbols - 1;
    for (int64_t wave = 0; wave < block->waves; wave++) {
        const int64_t start = block->ends[wave], count = block->ends[wave + 1] - start;
        const int64_t *places = block->places + start;
        own->symbols_at(model, count, padded, by_plane, places, block->offsets, block->above, block->cells + start, mean, row,
                        scratch);
        int escapes = 0;
        for (int64_t i = 0; i < count * C; i++) {
            const int found = symbol(decoder, tables->symbols, tables->bounds + row[i] * (tables->symbols + 1));
            if (found < 0)
                return 0;
            escapes |= found == escape;
            const int shift = (int)tables->shifts[row[i]];
            mean[i] += ((int64_t)found - middle) * ((int64_t)1 << shift);
            row[i] = 2 * shift + (found == escape);
        }
        for (int64_t i = 0; i < count * C; i++)
            if (row[i] > 1) {
                const int64_t low = uniform(decoder, (int)(row[i] / 2));
                if (low < 0)
                    return 0;
                mean[i] += low;
            }
        for (int64_t i = 0; escapes && i < count * C; i++)
            if (row[i] % 2) {
                const int64_t negative = uniform(decoder, 1);
                const int bits = negative < 0 ? -1 : symbol(decoder, tables->bits, tables->of_bits);
                const int64_t rest = bits > 0 ? uniform(decoder, bits) : bits;
                if (rest < 0)
                    return 0;
                const int64_t high = (int64_t)(middle + rest) + ((int64_t)1 << bits), last = escape - middle;
                mean[i] += ((negative ? -high : high) - last) * ((int64_t)1 << row[i] / 2);
            }
        for (int64_t i = 0; i < count; i++)
            for (int c = 0; c < C; c++)
                padded[c * by_plane + places[i]] = (double)mean[i * C + c];
    }
    return 1;
}
