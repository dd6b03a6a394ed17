/* The passes of differentiable k-means on a processor: the same formulas as grid.py and attention.py, each in one loop.

Weights are float, everything on the grid is double. G groups lie one after another in every array. Nothing is kept
between calls, so that any number of threads may make them. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* One build runs on every x86 processor and uses what it has. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAST
#endif

#if defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

#define POINTS 8    /* Points on a panel, as in grid.py. */
#define BLOCK 32    /* Points whose attention is held at once; gcc 12 vectorizes no loop over fewer here. */
#define CHUNK 512    /* Weights whose bins are computed at once. */
#define LOWEST -460.0 /* Exponents below this count as nothing: products would no longer be normal numbers. */
#define NEGLIGIBLE 1e-199

/* Bins of a chunk of weights. */
INLINE void find_bins(const float *places, int64_t count, float start, float scale, int32_t size, int32_t *bins)
{
    const int32_t last = size - 1;
    for (int64_t i = 0; i < count; i++) {
        int32_t bin = (int32_t)((places[i] - start) * scale);
        bin = bin < 0 ? 0 : bin;
        bins[i] = bin > last ? last : bin;
    }
}

/* Sums over bins of values, or of ones, and of their products with places: tables (G, size, 2). */
FAST EXPORT void count_places(const float *places, const float *values, int64_t groups, int64_t count,
                              const double *starts, const double *steps, int64_t size, int64_t skip_zeros,
                              double *tables)
{
    int32_t bins[CHUNK];
    for (int64_t group = 0; group < groups; group++) {
        double *table = tables + group * size * 2;
        const float *place = places + group * count;
        const float start = (float)starts[group], scale = (float)(1 / steps[group]);
        for (int64_t begin = 0; begin < count; begin += CHUNK) {
            const int64_t length = count - begin < CHUNK ? count - begin : CHUNK;
            const float *own = place + begin;
            find_bins(own, length, start, scale, (int32_t)size, bins);
            if (values) {
                const float *value = values + group * count + begin;
                for (int64_t i = 0; i < length; i++) {
                    double *entry = table + 2 * (int64_t)bins[i];
                    entry[0] += value[i];
                    entry[1] += (double)value[i] * own[i];
                }
            } else if (skip_zeros) {
                for (int64_t i = 0; i < length; i++) {
                    double *entry = table + 2 * (int64_t)bins[i];
                    entry[0] += own[i] != 0;
                    entry[1] += own[i];
                }
            } else {
                for (int64_t i = 0; i < length; i++) {
                    double *entry = table + 2 * (int64_t)bins[i];
                    entry[0] += 1;
                    entry[1] += own[i];
                }
            }
        }
    }
}

/* What lies in bins, with its moments, gathered on the points of their panels. at_edges: (bins + 1, POINTS). */
FAST EXPORT void gather(const double *tables, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                        const double *steps, const double *at_edges, double *points)
{
    for (int64_t group = 0; group < groups; group++) {
        for (int64_t panel = 0; panel < panels; panel++) {
            const double *entry = tables + (group * panels + panel) * bins * 2;
            double *own = points + (group * panels + panel) * POINTS;
            double sums[POINTS] = {0};
            for (int64_t bin = 0; bin < bins; bin++) {
                const double place = starts[group] + steps[group] * (double)(panel * bins + bin);
                const double right = (entry[2 * bin + 1] - place * entry[2 * bin]) / steps[group];
                const double left = entry[2 * bin] - right;
                const double *edge = at_edges + bin * POINTS;
                for (int k = 0; k < POINTS; k++)
                    sums[k] += left * edge[k] + right * edge[POINTS + k];
            }
            memcpy(own, sums, sizeof sums);
        }
    }
}

/* Intercepts and slopes of a function's chords over all bins, from its values on the points. */
FAST EXPORT void chords(const double *points, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                        const double *steps, const double *at_edges, float *intercepts, float *slopes)
{
    for (int64_t group = 0; group < groups; group++) {
        for (int64_t panel = 0; panel < panels; panel++) {
            const double *own = points + (group * panels + panel) * POINTS;
            const int64_t first = panel * bins, at = group * panels * bins + first;
            double left = 0;
            for (int k = 0; k < POINTS; k++)
                left += own[k] * at_edges[k];
            for (int64_t bin = 0; bin < bins; bin++) {
                const double *edge = at_edges + (bin + 1) * POINTS;
                double right = 0;
                for (int k = 0; k < POINTS; k++)
                    right += own[k] * edge[k];
                const double slope = (right - left) / steps[group];
                slopes[at + bin] = (float)slope;
                intercepts[at + bin] = (float)(left - slope * (starts[group] + steps[group] * (double)(first + bin)));
                left = right;
            }
        }
    }
}

/* A function known by its chords, at every place. */
FAST EXPORT void interpolate(const float *restrict places, int64_t groups, int64_t count, const double *starts,
                             const double *steps, int64_t size, const float *restrict intercepts,
                             const float *restrict slopes, float *restrict results)
{
    int32_t bins[CHUNK];
    for (int64_t group = 0; group < groups; group++) {
        const float start = (float)starts[group], scale = (float)(1 / steps[group]);
        const float *intercept = intercepts + group * size, *slope = slopes + group * size;
        for (int64_t begin = 0; begin < count; begin += CHUNK) {
            const int64_t length = count - begin < CHUNK ? count - begin : CHUNK;
            const float *own = places + group * count + begin;
            float *result = results + group * count + begin;
            find_bins(own, length, start, scale, (int32_t)size, bins);
            for (int64_t i = 0; i < length; i++)
                result[i] = intercept[bins[i]] + slope[bins[i]] * own[i];
        }
    }
}

/* first * upstream + second at every place, of two functions known by their chords, (2, G, size). */
FAST EXPORT void chain(const float *restrict places, const float *restrict upstream, int64_t groups, int64_t count,
                       const double *starts, const double *steps, int64_t size,
                       const float *restrict intercepts, const float *restrict slopes, float *restrict results)
{
    int32_t bins[CHUNK];
    for (int64_t group = 0; group < groups; group++) {
        const float start = (float)starts[group], scale = (float)(1 / steps[group]);
        const float *first = intercepts + group * size, *first_slope = slopes + group * size;
        const float *second = first + groups * size, *second_slope = first_slope + groups * size;
        for (int64_t begin = 0; begin < count; begin += CHUNK) {
            const int64_t length = count - begin < CHUNK ? count - begin : CHUNK;
            const float *own = places + group * count + begin, *given = upstream + group * count + begin;
            float *result = results + group * count + begin;
            find_bins(own, length, start, scale, (int32_t)size, bins);
            for (int64_t i = 0; i < length; i++) {
                const int32_t bin = bins[i];
                result[i] = (first[bin] + first_slope[bin] * own[i]) * given[i]
                            + (second[bin] + second_slope[bin] * own[i]);
            }
        }
    }
}

/* e^x for x from LOWEST to 0, to about two units in the last place; a call to the library would not be vectorized. */
INLINE double exponential(double x)
{
    const int32_t whole = (int32_t)(x * 1.4426950408889634 - 0.5);
    const double rest = (x - whole * 0.693147180369123816490) - whole * 1.90821492927058770002e-10;
    double sum = 1.6059043836821613e-10;
    sum = sum * rest + 2.08767569878681e-9;
    sum = sum * rest + 2.505210838544172e-8;
    sum = sum * rest + 2.755731922398589e-7;
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

/* Copies a block of points; what a last block lacks is filled with its last point. */
INLINE void load(const double *source, int64_t length, double fill, double *block)
{
    for (int64_t i = 0; i < BLOCK; i++)
        block[i] = i < length ? source[i] : fill;
}

/* The attention p of a block of points, (K, BLOCK), and its greatest logits. */
INLINE void pay(const Palette *palette, double middle, const double *x, double *soft, double *nearness)
{
    const double scale = 2 / palette->temperature;
    double total[BLOCK], centred[BLOCK], logits[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        centred[i] = x[i] - middle;
        nearness[i] = -INFINITY;
        total[i] = 0;
    }
    for (int64_t k = 0; k < palette->clusters; k++) {
        const double moved = palette->centroids[k] - middle;
        const double preference = k == 0 ? palette->zero_preference : 0;
        const double bias = (preference - moved * moved) / palette->temperature, slope = moved * scale;
        double *row = soft + k * BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            row[i] = bias + slope * centred[i];
            nearness[i] = row[i] > nearness[i] ? row[i] : nearness[i];
        }
    }
    for (int64_t k = 0; k < palette->clusters; k++) {
        double *row = soft + k * BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            const double logit = row[i] - nearness[i];
            logits[i] = logit > LOWEST ? logit : LOWEST;
        }
        for (int i = 0; i < BLOCK; i++) {
            row[i] = exponential(logits[i]);
            total[i] += row[i];
        }
    }
    for (int i = 0; i < BLOCK; i++)
        total[i] = 1 / total[i];
    for (int64_t k = 0; k < palette->clusters; k++) {
        double *row = soft + k * BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            const double share = row[i] * total[i];
            row[i] = share > NEGLIGIBLE ? share : 0;
        }
    }
}

INLINE double floored(double soft, double floor) { return soft > floor ? soft : floor; }
INLINE double unbound(double soft, double floor) { return soft > floor ? soft : 0; }

/* Sums of attention times masses and their first moments, (G, K, 2), and of masses times nearness, (G,). */
FAST EXPORT int sum_up(const double *points, const double *masses, int64_t groups, int64_t size,
                       const double *centroids, int64_t clusters, double temperature, double floor,
                       double zero_preference, double *sums, double *nearness)
{
    double *soft = malloc((size_t)clusters * BLOCK * sizeof(double));
    if (!soft)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const Palette palette = {clusters, centroids + group * clusters, temperature, floor, zero_preference};
        const double *point = points + group * size, *mass = masses + group * size;
        const double middle = (point[0] + point[size - 1]) / 2;
        double *sum = sums + group * clusters * 2;
        memset(sum, 0, (size_t)clusters * 2 * sizeof(double));
        double near = 0;
        for (int64_t begin = 0; begin < size; begin += BLOCK) {
            const int64_t length = size - begin;
            double x[BLOCK], n[BLOCK], nearest[BLOCK];
            load(point + begin, length, point[size - 1], x);
            load(mass + begin, length, 0, n);
            pay(&palette, middle, x, soft, nearest);
            for (int i = 0; i < BLOCK; i++)
                near += n[i] * nearest[i];
            for (int64_t k = 0; k < clusters; k++) {
                const double *row = soft + k * BLOCK;
                double zeroth = 0, first = 0;
                for (int i = 0; i < BLOCK; i++) {
                    const double share = floored(row[i], floor) * n[i];
                    zeroth += share;
                    first += share * x[i];
                }
                sum[2 * k] += zeroth;
                sum[2 * k + 1] += first;
            }
        }
        nearness[group] = near;
    }
    free(soft);
    return 0;
}

/* The palettized value f at each point: attention to the centroids before, of the centroids after. */
FAST EXPORT int evaluate(const double *points, int64_t groups, int64_t size, const double *before,
                         const double *after, int64_t clusters, double temperature, double floor,
                         double zero_preference, double *output)
{
    double *soft = malloc((size_t)clusters * BLOCK * sizeof(double));
    if (!soft)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const Palette palette = {clusters, before + group * clusters, temperature, floor, zero_preference};
        const double *point = points + group * size, *value = after + group * clusters;
        const double middle = (point[0] + point[size - 1]) / 2;
        for (int64_t begin = 0; begin < size; begin += BLOCK) {
            const int64_t length = size - begin < BLOCK ? size - begin : BLOCK;
            double x[BLOCK], nearest[BLOCK], f[BLOCK] = {0};
            load(point + begin, length, point[size - 1], x);
            pay(&palette, middle, x, soft, nearest);
            for (int64_t k = 0; k < clusters; k++)
                for (int i = 0; i < BLOCK; i++)
                    f[i] += floored(soft[k * BLOCK + i], floor) * value[k];
            memcpy(output + group * size + begin, f, (size_t)length * sizeof(double));
        }
    }
    free(soft);
    return 0;
}

/* Gradients by the centroids after and before the last iteration through f, (G, K) each, and the slope of f. */
FAST EXPORT int output_gradients(const double *points, const double *upstream, int64_t groups, int64_t size,
                                 const double *before, const double *after, int64_t clusters, double temperature,
                                 double floor, double zero_preference, double *by_after, double *by_before,
                                 double *slope)
{
    const double factor = 2 / temperature;
    double *soft = malloc((size_t)clusters * BLOCK * sizeof(double));
    if (!soft)
        return 1;
    memset(by_after, 0, (size_t)(groups * clusters) * sizeof(double));
    memset(by_before, 0, (size_t)(groups * clusters) * sizeof(double));
    for (int64_t group = 0; group < groups; group++) {
        const double *old = before + group * clusters, *new = after + group * clusters;
        const Palette palette = {clusters, old, temperature, floor, zero_preference};
        const double *point = points + group * size, *given = upstream + group * size;
        const double middle = (point[0] + point[size - 1]) / 2;
        for (int64_t begin = 0; begin < size; begin += BLOCK) {
            const int64_t length = size - begin < BLOCK ? size - begin : BLOCK;
            double x[BLOCK], g[BLOCK], nearest[BLOCK];
            double value[BLOCK] = {0}, product[BLOCK] = {0}, mean[BLOCK] = {0};
            load(point + begin, length, point[size - 1], x);
            load(given + begin, length, 0, g);
            pay(&palette, middle, x, soft, nearest);
            for (int64_t k = 0; k < clusters; k++) {
                const double *row = soft + k * BLOCK;
                for (int i = 0; i < BLOCK; i++) {
                    const double moving = unbound(row[i], floor) * new[k];
                    value[i] += moving;
                    product[i] += moving * old[k];
                    mean[i] += row[i] * old[k];
                }
            }
            for (int64_t i = 0; i < length; i++)
                slope[group * size + begin + i] = factor * (product[i] - value[i] * mean[i]);
            for (int64_t k = 0; k < clusters; k++) {
                const double *row = soft + k * BLOCK;
                double held = 0, constant = 0, linear = 0;
                for (int i = 0; i < BLOCK; i++) {
                    const double moving = (unbound(row[i], floor) * new[k] - row[i] * value[i]) * g[i];
                    held += floored(row[i], floor) * g[i];
                    constant += moving;
                    linear += moving * x[i];
                }
                by_after[group * clusters + k] += held;
                by_before[group * clusters + k] += factor * (linear - old[k] * constant);
            }
        }
    }
    free(soft);
    return 0;
}

/* Through an update of the centroids: the gradient by those before it, (G, K), and by the place of a unit of mass.

share: the gradient by the centroids after the update over the mass attended to them; offset: share times those. */
FAST EXPORT int update_gradients(const double *points, const double *masses, int64_t groups, int64_t size,
                                 const double *before, const double *share, const double *offset, int64_t clusters,
                                 double temperature, double floor, double zero_preference, double *by_before,
                                 double *slope)
{
    const double factor = 2 / temperature;
    double *soft = malloc((size_t)clusters * BLOCK * sizeof(double));
    if (!soft)
        return 1;
    memset(by_before, 0, (size_t)(groups * clusters) * sizeof(double));
    for (int64_t group = 0; group < groups; group++) {
        const double *old = before + group * clusters;
        const double *s = share + group * clusters, *o = offset + group * clusters;
        const Palette palette = {clusters, old, temperature, floor, zero_preference};
        const double *point = points + group * size, *mass = masses + group * size;
        const double middle = (point[0] + point[size - 1]) / 2;
        for (int64_t begin = 0; begin < size; begin += BLOCK) {
            const int64_t length = size - begin < BLOCK ? size - begin : BLOCK;
            double x[BLOCK], n[BLOCK], nearest[BLOCK], lever[BLOCK] = {0}, steep[BLOCK] = {0}, mean[BLOCK] = {0};
            double held[BLOCK] = {0};
            load(point + begin, length, point[size - 1], x);
            load(mass + begin, length, 0, n);
            pay(&palette, middle, x, soft, nearest);
            for (int64_t k = 0; k < clusters; k++) {
                const double *row = soft + k * BLOCK;
                for (int i = 0; i < BLOCK; i++) {
                    const double moving = unbound(row[i], floor) * (x[i] * s[k] - o[k]);
                    lever[i] += moving;
                    steep[i] += moving * old[k];
                    mean[i] += row[i] * old[k];
                    held[i] += floored(row[i], floor) * s[k];
                }
            }
            for (int64_t i = 0; i < length; i++)
                slope[group * size + begin + i] = held[i] + factor * (steep[i] - lever[i] * mean[i]);
            for (int64_t k = 0; k < clusters; k++) {
                const double *row = soft + k * BLOCK;
                double constant = 0, linear = 0;
                for (int i = 0; i < BLOCK; i++) {
                    const double pull = unbound(row[i], floor) * (x[i] * s[k] - o[k]) - row[i] * lever[i];
                    constant += pull * n[i];
                    linear += pull * n[i] * x[i];
                }
                by_before[group * clusters + k] += factor * (linear - old[k] * constant);
            }
        }
    }
    free(soft);
    return 0;
}

/* What a loader of Python extensions looks for; the functions above are called without one. */
EXPORT void *PyInit__passes(void) { return NULL; }
