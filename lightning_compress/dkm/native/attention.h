/* Attention of a block of points to a palette, and the sums and derivatives that a block adds to. As attender.py.

All of it is inlined into the passes of attention.c, which are built once for each kind of processor. */

#ifndef LIGHTNING_COMPRESS_ATTENTION_H
#define LIGHTNING_COMPRESS_ATTENTION_H

#include "passes.h"

#include <math.h>
#include <string.h>

#define BLOCK 32      /* Points whose attention is held at once; gcc 12 vectorizes no loop over fewer here. */
#define LOWEST -460.0 /* Exponents below this count as nothing: products would no longer be normal numbers. */
#define NEGLIGIBLE 1e-199
#define UNSEEN -36.0 /* Where attention has a floor, exponents below this are lost beside 1 in double precision. */

/* e^x for x from LOWEST to 0, to 1e-12 of it; a call to the library would not be vectorized. */
INLINE double exponential(double x)
{
    const int32_t whole = (int32_t)(x * 1.4426950408889634 - 0.5);
    const double rest = x - whole * 0.6931471805599453;
    double sum = 2.755731922398589e-7;
    sum = sum * rest + 2.7557319223985893e-6;
    sum = sum * rest + 2.48015873015873e-5;
    sum = sum * rest + 1.984126984126984e-4;
    sum = sum * rest + 1.388888888888889e-3;
    sum = sum * rest + 8.333333333333333e-3;
    sum = sum * rest + 4.1666666666666664e-2;
    sum = sum * rest + 1.6666666666666666e-1;
    sum = sum * rest + 0.5;
    sum = sum * rest + 1.0;
    sum = sum * rest + 1.0;
    const int64_t bits = ((int64_t)whole + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* A palette of one group and what attention is paid by. */
typedef struct {
    int64_t clusters;
    const double *centroids;
    double temperature, floor, zero_preference;
} Palette;

/* Copies a block of points; what a last block lacks is filled up. */
INLINE void load(const double *source, int64_t length, double fill, double *block)
{
    for (int64_t i = 0; i < BLOCK; i++)
        block[i] = i < length ? source[i] : fill;
}

/* The attention p of a block of points, and its greatest logits.

Rows are only those of the centroids that the block sees: their number is the result, their numbers go to `seen`. The
others are paid p = 0, or the floor. */
INLINE int64_t pay(const Palette *palette, double middle, const double *x, double *soft, int64_t *seen, double *nearness)
{
    const double scale = 2 / palette->temperature, least = palette->floor > 0 ? UNSEEN : LOWEST;
    double total[BLOCK], centred[BLOCK], logits[BLOCK], low = x[0], high = x[0];
    for (int i = 0; i < BLOCK; i++) {
        centred[i] = x[i] - middle;
        nearness[i] = -INFINITY;
        total[i] = 0;
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    /* No point is farther from its nearest centroid than one centroid is from all of them. */
    double reach = INFINITY;
    for (int64_t k = 0; k < palette->clusters; k++) {
        const double below = palette->centroids[k] - low, above = high - palette->centroids[k];
        const double farthest = below > above ? below : above;
        reach = farthest < reach ? farthest : reach;
    }
    reach = reach * reach - least * palette->temperature;
    int64_t near = 0;
    for (int64_t k = 0; k < palette->clusters; k++) {
        const double below = low - palette->centroids[k], above = palette->centroids[k] - high;
        const double outside = below > above ? below : above, distance = outside > 0 ? outside : 0;
        const double preference = k == 0 ? palette->zero_preference : 0;
        seen[near] = k;
        near += distance * distance - preference <= reach;
    }
    for (int64_t j = 0; j < near; j++) {
        const int64_t k = seen[j];
        const double moved = palette->centroids[k] - middle;
        const double preference = k == 0 ? palette->zero_preference : 0;
        const double bias = (preference - moved * moved) / palette->temperature, slope = moved * scale;
        double *row = soft + j * BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            row[i] = bias + slope * centred[i];
            nearness[i] = row[i] > nearness[i] ? row[i] : nearness[i];
        }
    }
    int64_t rows = 0;
    for (int64_t j = 0; j < near; j++) {
        const double *given = soft + j * BLOCK;
        double greatest = LOWEST;
        for (int i = 0; i < BLOCK; i++) {
            const double logit = given[i] - nearness[i];
            logits[i] = logit > LOWEST ? logit : LOWEST;
            greatest = logit > greatest ? logit : greatest;
        }
        if (greatest < least)
            continue;
        double *row = soft + rows * BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            row[i] = exponential(logits[i]);
            total[i] += row[i];
        }
        seen[rows++] = seen[j];
    }
    for (int i = 0; i < BLOCK; i++)
        total[i] = 1 / total[i];
    for (int64_t j = 0; j < rows; j++) {
        double *row = soft + j * BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            const double share = row[i] * total[i];
            row[i] = share > NEGLIGIBLE ? share : 0;
        }
    }
    return rows;
}

/* What attention has over its floor, and where the floor does not bind. */
INLINE double over(double soft, double floor) { return soft > floor ? soft - floor : 0; }
INLINE double unbound(double soft, double floor) { return soft > floor ? soft : 0; }

/* A block of points: x, what they carry, and the attention that they pay over and above the floor. */
typedef struct {
    double x[BLOCK], carried[BLOCK], nearness[BLOCK];
    const double *soft;
    const int64_t *seen;
    int64_t rows;
    double floor, factor;
} Block;

/* Sums of attention times masses and their first moments, without the floor's. */
INLINE void sum_up_block(const Block *block, double *sums)
{
    for (int64_t j = 0; j < block->rows; j++) {
        const double *row = block->soft + j * BLOCK;
        double zeroth = 0, first = 0;
        for (int i = 0; i < BLOCK; i++) {
            const double share = over(row[i], block->floor) * block->carried[i];
            zeroth += share;
            first += share * block->x[i];
        }
        sums[2 * block->seen[j]] += zeroth;
        sums[2 * block->seen[j] + 1] += first;
    }
}

/* The palettized value f at each point, without the floor's part. */
INLINE void evaluate_block(const Block *block, const double *after, double *f)
{
    for (int64_t j = 0; j < block->rows; j++) {
        const double *row = block->soft + j * BLOCK, value = after[block->seen[j]];
        for (int i = 0; i < BLOCK; i++)
            f[i] += over(row[i], block->floor) * value;
    }
}

/* Gradients by the centroids after, without the floor's, and before the last iteration through f; the slope of f. */
INLINE void output_block(const Block *block, const double *before, const double *after, double *slope, double *sums)
{
    double value[BLOCK] = {0}, product[BLOCK] = {0}, mean[BLOCK] = {0};
    for (int64_t j = 0; j < block->rows; j++) {
        const double *row = block->soft + j * BLOCK, old = before[block->seen[j]], new = after[block->seen[j]];
        for (int i = 0; i < BLOCK; i++) {
            const double moving = unbound(row[i], block->floor) * new;
            value[i] += moving;
            product[i] += moving * old;
            mean[i] += row[i] * old;
        }
    }
    for (int i = 0; i < BLOCK; i++)
        slope[i] = block->factor * (product[i] - value[i] * mean[i]);
    for (int64_t j = 0; j < block->rows; j++) {
        const double *row = block->soft + j * BLOCK, new = after[block->seen[j]];
        double held = 0, constant = 0, linear = 0;
        for (int i = 0; i < BLOCK; i++) {
            const double moving = (unbound(row[i], block->floor) * new - row[i] * value[i]) * block->carried[i];
            held += over(row[i], block->floor) * block->carried[i];
            constant += moving;
            linear += moving * block->x[i];
        }
        sums[2 * block->seen[j]] += held;
        sums[2 * block->seen[j] + 1] += block->factor * (linear - before[block->seen[j]] * constant);
    }
}

/* Through an update of the centroids: the gradient by those before it, and by the place of a unit of mass, to which
`slope` holds the floor's part before.

share: the gradient by the centroids after the update over the mass attended to them; offset: share times those. */
INLINE void update_block(const Block *block, const double *before, const double *share, const double *offset,
                         double *slope, double *sums)
{
    const double *x = block->x, floor = block->floor;
    double lever[BLOCK] = {0}, steep[BLOCK] = {0}, mean[BLOCK] = {0};
    for (int64_t j = 0; j < block->rows; j++) {
        const int64_t k = block->seen[j];
        const double *row = block->soft + j * BLOCK, old = before[k], own = share[k], shift = offset[k];
        for (int i = 0; i < BLOCK; i++) {
            const double moving = unbound(row[i], floor) * (x[i] * own - shift);
            lever[i] += moving;
            steep[i] += moving * old;
            mean[i] += row[i] * old;
            slope[i] += over(row[i], floor) * own;
        }
    }
    for (int i = 0; i < BLOCK; i++)
        slope[i] += block->factor * (steep[i] - lever[i] * mean[i]);
    for (int64_t j = 0; j < block->rows; j++) {
        const int64_t k = block->seen[j];
        const double *row = block->soft + j * BLOCK, own = share[k], shift = offset[k];
        double constant = 0, linear = 0;
        for (int i = 0; i < BLOCK; i++) {
            const double pull = unbound(row[i], floor) * (x[i] * own - shift) - row[i] * lever[i];
            constant += pull * block->carried[i];
            linear += pull * block->carried[i] * x[i];
        }
        sums[2 * k] += block->factor * (linear - before[k] * constant);
    }
}

/* The floor of attention times what is carried, once for all centroids. */
INLINE void sum_floor(const Block *block, double *zeroth, double *first)
{
    for (int i = 0; i < BLOCK; i++) {
        *zeroth += block->floor * block->carried[i];
        *first += block->floor * block->carried[i] * block->x[i];
    }
}

#endif
