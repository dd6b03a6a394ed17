/* The passes of differentiable k-means on a processor: the same formulas as passes.py and attender.py, each in one loop.

Weights are float, everything on the grid is double. G groups lie one after another in every array. Nothing is kept
between calls, so that any number of threads may make them.

A pass is cut into parts, which `fork`, an entry of the OpenMP library that torch itself runs on, hands to its threads;
without one they are done in turn. Functions return 1 where there was no memory. */

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
#define UNSEEN -36.0 /* Where attention has a floor, exponents below this are lost beside 1 in double precision. */

/* GOMP_parallel: runs a task on so many threads. */
typedef void (*Fork)(void (*task)(void *), void *data, unsigned threads, unsigned flags);

/* Takes the next part that no thread has taken, or returns parts. */
#if defined(_MSC_VER)
#include <intrin.h>
#define TAKE(next) (_InterlockedExchangeAdd64((next), 1))
#else
#define TAKE(next) (__atomic_fetch_add((next), 1, __ATOMIC_RELAXED))
#endif

INLINE void run(Fork fork, int64_t parts, void (*task)(void *), void *data)
{
    if (fork && parts > 1)
        fork(task, data, (unsigned)parts, 0);
    else
        task(data);
}

/* A pass over the places of G groups, (G, count), with a table for the bins of each: what is not used is NULL. */
typedef struct {
    int64_t next, parts;
    const float *places, *values;
    int64_t groups, count, size, skip_zeros;
    const double *starts, *steps;
    double *tables;
    const float *intercepts, *slopes;
    float *results;
} Pass;

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

/* One chunk of each kind of pass, its bins known. */

INLINE void count_chunk(const Pass *pass, int64_t length, const float *own, const float *values, const int32_t *bins,
                        double *table)
{
    if (values) {
        for (int64_t i = 0; i < length; i++) {
            double *entry = table + 2 * (int64_t)bins[i];
            entry[0] += values[i];
            entry[1] += (double)values[i] * own[i];
        }
    } else if (pass->skip_zeros) {
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

INLINE void interpolate_chunk(int64_t length, const float *restrict own, const int32_t *restrict bins,
                              const float *restrict intercept, const float *restrict slope, float *restrict result)
{
    for (int64_t i = 0; i < length; i++)
        result[i] = intercept[bins[i]] + slope[bins[i]] * own[i];
}

INLINE void chain_chunk(int64_t length, const float *restrict own, const float *restrict given,
                        const int32_t *restrict bins, const float *restrict first, const float *restrict first_slope,
                        const float *restrict second, const float *restrict second_slope, float *restrict result)
{
    for (int64_t i = 0; i < length; i++) {
        const int32_t bin = bins[i];
        result[i] = (first[bin] + first_slope[bin] * own[i]) * given[i] + (second[bin] + second_slope[bin] * own[i]);
    }
}

FAST static void pass_parts(void *data)
{
    Pass *pass = data;
    int32_t bins[CHUNK];
    for (int64_t part = TAKE(&pass->next); part < pass->parts; part = TAKE(&pass->next)) {
        const int64_t first = pass->count * part / pass->parts, end = pass->count * (part + 1) / pass->parts;
        for (int64_t group = 0; group < pass->groups; group++) {
            const float start = (float)pass->starts[group], scale = (float)(1 / pass->steps[group]);
            const int64_t table = group * pass->size, other = (pass->groups + group) * pass->size;
            for (int64_t begin = first; begin < end; begin += CHUNK) {
                const int64_t length = end - begin < CHUNK ? end - begin : CHUNK, at = group * pass->count + begin;
                const float *own = pass->places + at, *values = pass->values ? pass->values + at : NULL;
                find_bins(own, length, start, scale, (int32_t)pass->size, bins);
                if (pass->tables)
                    count_chunk(pass, length, own, values, bins,
                                pass->tables + 2 * (part * pass->groups * pass->size + table));
                else if (values)
                    chain_chunk(length, own, values, bins, pass->intercepts + table, pass->slopes + table,
                                pass->intercepts + other, pass->slopes + other, pass->results + at);
                else
                    interpolate_chunk(length, own, bins, pass->intercepts + table, pass->slopes + table,
                                      pass->results + at);
            }
        }
    }
}

/* Sums over bins of values, or of ones, and of their products with places: tables (parts, G, size, 2), the first the result. */
EXPORT int count_places(Fork fork, int64_t parts, const float *places, const float *values, int64_t groups,
                         int64_t count, const double *starts, const double *steps, int64_t size, int64_t skip_zeros,
                         double *tables)
{
    memset(tables, 0, (size_t)(2 * parts * groups * size) * sizeof(double));
    Pass pass = {0, parts, places, values, groups, count, size, skip_zeros, starts, steps, tables, NULL, NULL, NULL};
    run(fork, parts, pass_parts, &pass);
    for (int64_t part = 1; part < parts; part++)
        for (int64_t i = 0; i < 2 * groups * size; i++)
            tables[i] += tables[2 * part * groups * size + i];
    return 0;
}

/* A function known by its chords, at every place. */
EXPORT int interpolate(Fork fork, int64_t parts, const float *places, int64_t groups, int64_t count,
                        const double *starts, const double *steps, int64_t size, const float *intercepts,
                        const float *slopes, float *results)
{
    Pass pass = {0, parts, places, NULL, groups, count, size, 0, starts, steps, NULL, intercepts, slopes, results};
    run(fork, parts, pass_parts, &pass);
    return 0;
}

/* first * upstream + second at every place, of two functions known by their chords, (2, G, size). */
EXPORT int chain(Fork fork, int64_t parts, const float *places, const float *upstream, int64_t groups, int64_t count,
                  const double *starts, const double *steps, int64_t size, const float *intercepts,
                  const float *slopes, float *results)
{
    Pass pass = {0, parts, places, upstream, groups, count, size, 0, starts, steps, NULL, intercepts, slopes, results};
    run(fork, parts, pass_parts, &pass);
    return 0;
}

/* What lies in bins, with its moments, gathered on the points of their panels. at_edges: (POINTS, bins + 1). */
FAST EXPORT int gather(const double *tables, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                       const double *steps, const double *at_edges, double *points)
{
    double *edges = malloc((size_t)(bins + 1) * sizeof(double));
    if (!edges)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const double start = starts[group], step = steps[group], scale = 1 / step;
        for (int64_t panel = 0; panel < panels; panel++) {
            const double *entry = tables + (group * panels + panel) * bins * 2;
            memset(edges, 0, (size_t)(bins + 1) * sizeof(double));
            for (int64_t bin = 0; bin < bins; bin++) {
                const double place = start + step * (double)(panel * bins + bin);
                const double right = (entry[2 * bin + 1] - place * entry[2 * bin]) * scale;
                edges[bin] += entry[2 * bin] - right;
                edges[bin + 1] += right;
            }
            for (int k = 0; k < POINTS; k++) {
                const double *at = at_edges + k * (bins + 1);
                double sum = 0;
                for (int64_t edge = 0; edge <= bins; edge++)
                    sum += edges[edge] * at[edge];
                points[(group * panels + panel) * POINTS + k] = sum;
            }
        }
    }
    free(edges);
    return 0;
}

/* Intercepts and slopes of a function's chords over all bins, from its values on the points. */
FAST EXPORT int chords(const double *points, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                       const double *steps, const double *at_edges, float *intercepts, float *slopes)
{
    double *values = malloc((size_t)(bins + 1) * sizeof(double));
    if (!values)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const double start = starts[group], step = steps[group], scale = 1 / step;
        for (int64_t panel = 0; panel < panels; panel++) {
            const int64_t first = panel * bins;
            float *intercept = intercepts + (group * panels + panel) * bins;
            float *slope = slopes + (group * panels + panel) * bins;
            memset(values, 0, (size_t)(bins + 1) * sizeof(double));
            for (int k = 0; k < POINTS; k++) {
                const double *at = at_edges + k * (bins + 1), point = points[(group * panels + panel) * POINTS + k];
                for (int64_t edge = 0; edge <= bins; edge++)
                    values[edge] += point * at[edge];
            }
            for (int64_t bin = 0; bin < bins; bin++) {
                const double steepness = (values[bin + 1] - values[bin]) * scale;
                slope[bin] = (float)steepness;
                intercept[bin] = (float)(values[bin] - steepness * (start + step * (double)(first + bin)));
            }
        }
    }
    free(values);
    return 0;
}

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

/* A pass over the points of G groups, (G, size), and their attention to centroids, (G, K).

carried: masses or upstream gradients, (G, size). first, second: palettes, (G, K). sums: for each part, (G, K, 2), and
total, (G,), the first the result. on_points: results at the points. */
typedef struct {
    int64_t next, parts, failed;
    const double *points, *carried;
    int64_t groups, size;
    const double *centroids, *first, *second;
    int64_t clusters;
    double temperature, floor, zero_preference;
    double *sums, *total, *on_points;
} Attention;

typedef enum { SUM_UP, EVALUATE, OUTPUT_GRADIENTS, UPDATE_GRADIENTS } Kind;

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

INLINE void attend_group(const Attention *pass, Kind kind, int64_t part, int64_t group, double *soft, int64_t *seen)
{
    const int64_t blocks = (pass->size + BLOCK - 1) / BLOCK, own = group * pass->clusters;
    const int64_t start = blocks * part / pass->parts, end = blocks * (part + 1) / pass->parts;
    const double *point = pass->points + group * pass->size, *before = pass->centroids + own;
    const double *first = pass->first ? pass->first + own : NULL, *second = pass->second ? pass->second + own : NULL;
    const Palette palette = {pass->clusters, before, pass->temperature, pass->floor, pass->zero_preference};
    const double last = point[pass->size - 1], middle = (point[0] + last) / 2;
    double *sums = pass->sums + 2 * (part * pass->groups * pass->clusters + own);
    double near = 0, zeroth = 0, moment = 0, held = 0;
    for (int64_t k = 0; first && k < pass->clusters; k++)
        held += pass->floor * first[k];
    for (int64_t index = start; index < end; index++) {
        const int64_t begin = index * BLOCK, length = pass->size - begin;
        Block block = {.soft = soft, .seen = seen, .floor = pass->floor, .factor = 2 / pass->temperature};
        double result[BLOCK];
        load(point + begin, length, last, block.x);
        if (pass->carried)
            load(pass->carried + group * pass->size + begin, length, 0, block.carried);
        block.rows = pay(&palette, middle, block.x, soft, seen, block.nearness);
        for (int i = 0; i < BLOCK; i++)
            result[i] = held;
        if (kind == SUM_UP) {
            sum_up_block(&block, sums);
            for (int i = 0; i < BLOCK; i++)
                near += block.carried[i] * block.nearness[i];
        } else if (kind == EVALUATE)
            evaluate_block(&block, first, result);
        else if (kind == OUTPUT_GRADIENTS)
            output_block(&block, before, first, result, sums);
        else
            update_block(&block, before, first, second, result, sums);
        sum_floor(&block, &zeroth, &moment);
        if (kind != SUM_UP)
            memcpy(pass->on_points + group * pass->size + begin, result,
                   (size_t)(length < BLOCK ? length : BLOCK) * sizeof(double));
    }
    for (int64_t k = 0; k < pass->clusters; k++) {
        if (kind == SUM_UP || kind == OUTPUT_GRADIENTS)
            sums[2 * k] += zeroth;
        if (kind == SUM_UP)
            sums[2 * k + 1] += moment;
    }
    pass->total[part * pass->groups + group] += near;
}

INLINE void attend(Attention *pass, Kind kind)
{
    double *soft = malloc((size_t)pass->clusters * BLOCK * sizeof(double));
    int64_t *seen = malloc((size_t)pass->clusters * sizeof(int64_t));
    if (!soft || !seen)
        pass->failed = 1;
    for (int64_t part = TAKE(&pass->next); part < pass->parts; part = TAKE(&pass->next))
        for (int64_t group = 0; group < pass->groups && soft && seen; group++)
            attend_group(pass, kind, part, group, soft, seen);
    free(soft);
    free(seen);
}

FAST static void sum_up_parts(void *pass) { attend(pass, SUM_UP); }
FAST static void evaluate_parts(void *pass) { attend(pass, EVALUATE); }
FAST static void output_parts(void *pass) { attend(pass, OUTPUT_GRADIENTS); }
FAST static void update_parts(void *pass) { attend(pass, UPDATE_GRADIENTS); }

/* Makes a pass of one kind over all points. sums: (parts, G, K, 2), total: (parts, G), the first the result. */
EXPORT int attend_points(Fork fork, int64_t parts, int64_t kind, const double *points, const double *carried,
                         int64_t groups, int64_t size, const double *centroids, const double *first,
                         const double *second, int64_t clusters, double temperature, double floor,
                         double zero_preference, double *sums, double *total, double *on_points)
{
    memset(sums, 0, (size_t)(2 * parts * groups * clusters) * sizeof(double));
    memset(total, 0, (size_t)(parts * groups) * sizeof(double));
    static void (*const tasks[])(void *) = {sum_up_parts, evaluate_parts, output_parts, update_parts};
    Attention pass = {0, parts, 0, points, carried, groups, size, centroids, first, second, clusters, temperature,
                      floor, zero_preference, sums, total, on_points};
    run(fork, parts, tasks[kind], &pass);
    for (int64_t part = 1; part < parts; part++) {
        for (int64_t i = 0; i < 2 * groups * clusters; i++)
            sums[i] += sums[2 * part * groups * clusters + i];
        for (int64_t i = 0; i < groups; i++)
            total[i] += total[part * groups + i];
    }
    return (int)pass.failed;
}

/* What a loader of Python extensions looks for; the functions above are called without one. */
EXPORT void *PyInit__passes(void) { return NULL; }
