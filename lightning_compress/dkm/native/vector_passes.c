/* Passes over the vectors of a weight: their attention to centroids, summed up, evaluated, and differentiated.

As vector_attender.py, which has the formulas. */

#if defined(__GNUC__)

#include "vector_passes.h"

#include <stdlib.h>

/* Blocks summed up in single precision, and as many of wide palettes, whose means must be known more precisely. */
#define FLUSH 128
#define FLUSH_OF_WIDE 8

/* Sums of attention and of attention times vectors, without the floor's: columns 0 and 1 to dimensions. */
INLINE void sum_up_block(const VectorPass *pass, int64_t dimensions, const Pair *x, const Pair *soft, Floats *sums)
{
    Pair place[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++)
        place[d] = x[d];
    for (int64_t k = 0; k < pass->palette.clusters; k++, sums += 1 + 2 * dimensions)
        for (int half = 0; half < 2; half++) {
            const Floats share = over_floor(soft[k].half[half], pass->floor);
            sums[0] += share;
            for (int64_t d = 0; d < dimensions; d++)
                sums[1 + d] += share * place[d].half[half];
        }
}

INLINE void evaluate_block(const VectorPass *pass, int64_t dimensions, const Pair *soft, Pair *result)
{
    Pair value[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++)
        value[d] = result[d];
    for (int64_t k = 0; k < pass->palette.clusters; k++)
        for (int half = 0; half < 2; half++) {
            const Floats share = over_floor(soft[k].half[half], pass->floor);
            for (int64_t d = 0; d < dimensions; d++)
                value[d].half[half] += share * pass->after[k * dimensions + d];
        }
    for (int64_t d = 0; d < dimensions; d++)
        result[d] = value[d];
}

/* Gradients by the places of vectors, added to `slope`, and by the centroids before, in columns 1 to dimensions, from
the gradients t of what is attended. */
INLINE void react(const VectorPass *pass, int64_t dimensions, const Pair *x, const Pair *soft, const Pair *levers,
                  Pair *slope, Floats *sums)
{
    /* Copies that no pointer leads to, which stay in registers. */
    Pair mean = every(0), place[MOST_DIMENSIONS], moved[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++) {
        place[d] = x[d];
        moved[d] = every(0);
    }
    for (int64_t k = 0; k < pass->palette.clusters; k++)
        for (int half = 0; half < 2; half++)
            mean.half[half] += unbound_by(soft[k].half[half], pass->floor) * levers[k].half[half];
    for (int64_t k = 0; k < pass->palette.clusters; k++, sums += 1 + 2 * dimensions)
        for (int half = 0; half < 2; half++) {
            const Floats paid = soft[k].half[half];
            const Floats pull = unbound_by(paid, pass->floor) * levers[k].half[half] - paid * mean.half[half];
            for (int64_t d = 0; d < dimensions; d++) {
                const Floats part = pull * (place[d].half[half] - pass->palette.centroids[k * dimensions + d]);
                moved[d].half[half] += part;
                sums[1 + d] += part;
            }
        }
    for (int64_t d = 0; d < dimensions; d++)
        for (int half = 0; half < 2; half++)
            slope[d].half[half] -= moved[d].half[half] * pass->factor;
}

/* Through the output: gradients by the centroids after are columns 1 + dimensions and on, without the floor's. */
INLINE void output_block(const VectorPass *pass, int64_t dimensions, const Pair *x, const Pair *carried,
                         const Pair *soft, Pair *levers, Pair *slope, Floats *sums)
{
    Floats *own = sums + 1 + dimensions;
    for (int64_t k = 0; k < pass->palette.clusters; k++, own += 1 + 2 * dimensions)
        for (int half = 0; half < 2; half++) {
            const Floats share = over_floor(soft[k].half[half], pass->floor);
            Floats lever = {0};
            for (int64_t d = 0; d < dimensions; d++) {
                lever += carried[d].half[half] * pass->after[k * dimensions + d];
                own[d] += share * carried[d].half[half];
            }
            levers[k].half[half] = lever;
        }
    react(pass, dimensions, x, soft, levers, slope, sums);
}

INLINE void update_block(const VectorPass *pass, int64_t dimensions, const Pair *x, const Pair *soft, Pair *levers,
                         Pair *slope, Floats *sums)
{
    Pair place[MOST_DIMENSIONS], held[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++) {
        place[d] = x[d];
        held[d] = slope[d];
    }
    for (int64_t k = 0; k < pass->palette.clusters; k++)
        for (int half = 0; half < 2; half++) {
            const Floats share = over_floor(soft[k].half[half], pass->floor);
            Floats lever = {0};
            for (int64_t d = 0; d < dimensions; d++) {
                const float own = pass->share[k * dimensions + d];
                lever += own * (place[d].half[half] - pass->after[k * dimensions + d]);
                held[d].half[half] += share * own;
            }
            levers[k].half[half] = lever;
        }
    for (int64_t d = 0; d < dimensions; d++)
        slope[d] = held[d];
    react(pass, dimensions, x, soft, levers, slope, sums);
}

/* The numbers of the nearest centroids, and how many vectors and what sum of them each has: columns 0 and 1 to
dimensions, of one lane. */
INLINE Pair assign_block(const VectorPass *pass, int64_t dimensions, const Pair *x, const Pair *there, int32_t *nearest,
                         Floats *sums)
{
    Pair least = every(INFINITY);
    for (int half = 0; half < 2; half++) {
        Integers index = {0};
        for (int64_t k = 0; k < pass->palette.clusters; k++) {
            const Floats distance = distance_to(&pass->palette, k, dimensions, x, half);
            const Integers nearer = distance < least.half[half];
            least.half[half] = choose(nearer, distance, least.half[half]);
            index = (nearer & (int32_t)k) | (~nearer & index);
        }
        memcpy(nearest + half * LANES, &index, sizeof index);
    }
    for (int lane = 0; lane < VECTORS; lane++) {
        float *own = (float *)(sums + nearest[lane] * (1 + 2 * dimensions)) + lane % LANES;
        if (((const float *)there)[lane] == 0)
            continue;
        own[0] += 1;
        for (int64_t d = 0; d < dimensions; d++)
            own[(1 + d) * LANES] += ((const float *)(x + d))[lane];
    }
    return least;
}

/* Where a block of vectors lies in a weight: runs of neighbours, each within a row. */
typedef struct {
    int64_t chunk, place, left;
} Cursor;

/* Copies between a weight and a block, element by element of as many vectors as are left, and moves on. */
INLINE Cursor copy_block(const VectorPass *pass, int64_t dimensions, Cursor at, float *weight, Pair *block, int store)
{
    for (int64_t lane = 0; lane < VECTORS && at.left;) {
        int64_t length = pass->row - at.place;
        length = length < VECTORS - lane ? length : VECTORS - lane;
        length = length < at.left ? length : at.left;
        for (int64_t d = 0; d < dimensions; d++) {
            float *own = weight + (at.chunk * dimensions + d) * pass->row + at.place, *lanes = (float *)(block + d);
            if (store)
                memcpy(own, lanes + lane, (size_t)length * sizeof(float));
            else
                memcpy(lanes + lane, own, (size_t)length * sizeof(float));
        }
        lane += length;
        at.left -= length;
        at.place += length;
        if (at.place == pass->row) {
            at.place = 0;
            at.chunk++;
        }
    }
    return at;
}

/* 1 for the vectors of a block that take part, of which there are `count`, and 0 for others. */
INLINE Pair who_is_there(const VectorPass *pass, int64_t dimensions, const Pair *x, int64_t count)
{
    float lanes[VECTORS];
    for (int lane = 0; lane < VECTORS; lane++)
        lanes[lane] = lane < count;
    Pair there;
    memcpy(&there, lanes, sizeof there);
    for (int half = 0; half < 2 && pass->skip_zeros; half++) {
        Integers some = {0};
        for (int64_t d = 0; d < dimensions; d++)
            some |= x[d].half[half] != 0;
        there.half[half] = (Floats)(some & (Integers)there.half[half]);
    }
    return there;
}

/* Adds sums in single precision to those in double precision, and begins anew. */
INLINE void flush(Floats *running, int64_t size, double *sums)
{
    for (int64_t i = 0; i < size; i++) {
        sums[i] += sum_lanes(running[i]);
        running[i] = (Floats){0};
    }
}

/* Room of one thread. */
typedef struct {
    Pair *soft, *levers;
    Floats *running;
} Room;

INLINE void look_up(const VectorPass *pass, int64_t dimensions, int64_t first, Pair *result)
{
    for (int lane = 0; lane < VECTORS && first + lane < pass->chunks * pass->row; lane++)
        for (int64_t d = 0; d < dimensions; d++)
            ((float *)(result + d))[lane] = pass->after[pass->indices[first + lane] * dimensions + d];
}

INLINE void pass_over_part(const VectorPass *pass, PassKind kind, int64_t dimensions, int64_t part, const Room *room)
{
    const int64_t count = pass->chunks * pass->row, size = pass->palette.clusters * (1 + 2 * dimensions);
    const int64_t blocks = (count + VECTORS - 1) / VECTORS, start = VECTORS * (blocks * part / pass->parts);
    int64_t end = VECTORS * (blocks * (part + 1) / pass->parts), held = 0;
    end = end < count ? end : count;
    const float *table = kind == UPDATE_GRADIENTS ? pass->share : pass->after;
    double *totals = pass->totals + part * (2 + dimensions);
    const int64_t together = pass->palette.precise ? FLUSH_OF_WIDE : FLUSH;
    const int adds = kind == UPDATE_GRADIENTS, stores = adds || kind == OUTPUT_GRADIENTS || kind == EVALUATE;
    Pair x[MOST_DIMENSIONS], carried[MOST_DIMENSIONS], result[MOST_DIMENSIONS], earlier[MOST_DIMENSIONS];
    float floor[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++) {
        x[d] = carried[d] = every(0);
        floor[d] = 0;
        for (int64_t k = 0; k < pass->palette.clusters && (kind == EVALUATE || adds); k++)
            floor[d] += pass->floor * table[k * dimensions + d];
    }
    Cursor at = {start / pass->row, start % pass->row, end - start};
    for (int64_t i = start; i < end; i += VECTORS) {
        const int64_t length = end - i < VECTORS ? end - i : VECTORS;
        const Cursor next = copy_block(pass, dimensions, at, (float *)pass->weight, x, 0);
        const Pair there = who_is_there(pass, dimensions, x, length);
        Pair nearest = every(0);
        for (int64_t d = 0; d < dimensions; d++)
            result[d] = every(floor[d]);
        if (kind == OUTPUT_GRADIENTS)
            copy_block(pass, dimensions, at, (float *)pass->carried, carried, 0);
        if (kind == ASSIGN) {
            int32_t indices[VECTORS];
            nearest = assign_block(pass, dimensions, x, &there, indices, room->running);
            for (int64_t lane = 0; lane < length; lane++)
                pass->indices[i + lane] = (uint8_t)indices[lane];
        } else if (kind == LOOK_UP)
            look_up(pass, dimensions, i, result);
        else
            nearest = pay_block(&pass->palette, dimensions, x, &there, room->soft);
        if (kind == SUM_UP)
            sum_up_block(pass, dimensions, x, room->soft, room->running);
        else if (kind == EVALUATE)
            evaluate_block(pass, dimensions, room->soft, result);
        else if (kind == OUTPUT_GRADIENTS)
            output_block(pass, dimensions, x, carried, room->soft, room->levers, result, room->running);
        else if (kind == UPDATE_GRADIENTS)
            update_block(pass, dimensions, x, room->soft, room->levers, result, room->running);
        if (adds)
            copy_block(pass, dimensions, at, pass->results, earlier, 0);
        for (int64_t d = 0; d < dimensions && (stores || kind == LOOK_UP); d++)
            for (int half = 0; half < 2; half++) {
                result[d].half[half] *= there.half[half];
                if (adds)
                    result[d].half[half] += earlier[d].half[half];
            }
        if (stores || kind == LOOK_UP)
            copy_block(pass, dimensions, at, pass->results, result, 1);
        const Pair *summed = kind == OUTPUT_GRADIENTS ? carried : x;
        for (int half = 0; half < 2; half++) {
            totals[0] += sum_lanes(nearest.half[half] * there.half[half]);
            totals[1] += sum_lanes(there.half[half]);
            for (int64_t d = 0; d < dimensions; d++)
                totals[2 + d] += sum_lanes(summed[d].half[half] * there.half[half]);
        }
        at = next;
        if (++held == together) {
            flush(room->running, size, pass->sums + part * size);
            held = 0;
        }
    }
    flush(room->running, size, pass->sums + part * size);
}

INLINE void pass_over(VectorPass *pass, PassKind kind, int64_t dimensions)
{
    const size_t clusters = (size_t)pass->palette.clusters;
    const Room room = {malloc(clusters * sizeof(Pair)), malloc(clusters * sizeof(Pair)),
                       calloc(clusters * (size_t)(1 + 2 * dimensions), sizeof(Floats))};
    const int made = room.soft && room.levers && room.running;
    if (!made)
        pass->failed = 1;
    for (int64_t part = TAKE(&pass->next); part < pass->parts && made; part = TAKE(&pass->next))
        pass_over_part(pass, kind, dimensions, part, &room);
    free(room.soft);
    free(room.levers);
    free(room.running);
}

/* Each kind for the usual numbers of dimensions, and for any. */
#define TASK(name, kind, dimensions) \
    FAST static void name(void *data) \
    { \
        VectorPass *pass = data; \
        pass_over(pass, kind, dimensions); \
    }
#define TASKS(name, kind) \
    TASK(name##_of_2, kind, 2) TASK(name##_of_4, kind, 4) TASK(name##_of_8, kind, 8) \
    TASK(name##_of_any, kind, pass->dimensions)
TASKS(sum_up, SUM_UP)
TASKS(evaluate, EVALUATE)
TASKS(output, OUTPUT_GRADIENTS)
TASKS(update, UPDATE_GRADIENTS)
TASKS(assign, ASSIGN)
TASKS(look_up, LOOK_UP)
#define ENTRIES(name) {name##_of_2, name##_of_4, name##_of_8, name##_of_any}

static void (*const tasks[][4])(void *) = {ENTRIES(sum_up), ENTRIES(evaluate), ENTRIES(output),
                                           ENTRIES(update), ENTRIES(assign),   ENTRIES(look_up)};

int run_vector_pass(Fork fork, VectorPass *pass, PassKind kind)
{
    const int64_t size = pass->palette.clusters * (1 + 2 * pass->dimensions), totals = 2 + pass->dimensions;
    memset(pass->sums, 0, (size_t)(pass->parts * size) * sizeof(double));
    memset(pass->totals, 0, (size_t)(pass->parts * totals) * sizeof(double));
    const int usual = pass->dimensions == 2 ? 0 : pass->dimensions == 4 ? 1 : pass->dimensions == 8 ? 2 : 3;
    pass->next = 0;
    run(fork, pass->parts, tasks[kind][usual], pass);
    for (int64_t part = 1; part < pass->parts; part++) {
        for (int64_t i = 0; i < size; i++)
            pass->sums[i] += pass->sums[part * size + i];
        for (int64_t i = 0; i < totals; i++)
            pass->totals[i] += pass->totals[part * totals + i];
    }
    return (int)pass->failed;
}

#endif
