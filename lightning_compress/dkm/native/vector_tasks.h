/* Passes over the vectors of a weight: their attention to centroids, summed up, evaluated, and differentiated.

Included once for each kind of processor, with LANES, FOR_PROCESSOR, the attribute of functions for it, and VECTOR_TASKS,
the name of the table that results. Compilers take vectors of more lanes than a processor has apart lane by lane. */

#ifndef LIGHTNING_COMPRESS_VECTOR_TASKS_H
#define LIGHTNING_COMPRESS_VECTOR_TASKS_H

#include "vector_lanes.h"

#include <stdlib.h>

/* Blocks summed up in single precision, and as many of wide palettes, whose means must be known more precisely. */
#define FLUSH 128
#define FLUSH_OF_WIDE 8

/* Where a block of vectors lies in a weight: runs of neighbours, each within a row. */
typedef struct {
    int64_t chunk, place, left;
} Cursor;

/* Copies between a weight and a block of vectors in an order. */
INLINE void copy_ordered(const VectorPass *pass, int64_t dimensions, const int32_t *order, int64_t length,
                         float *weight, Pair *block, int store)
{
    for (int64_t lane = 0; lane < length; lane++)
        for (int64_t d = 0; d < dimensions; d++) {
            float *own = weight + order[lane] + d * pass->row, *to = (float *)(block + d) + lane;
            if (store)
                *own = *to;
            else
                *to = *own;
        }
}

/* Copies between a weight and a block, element by element of as many vectors as are left, and moves on. `first` counts
vectors. */
INLINE Cursor copy_block(const VectorPass *pass, int64_t dimensions, Cursor at, int64_t first, float *weight,
                         Pair *block, int store)
{
    if (pass->order) {
        const int64_t length = at.left < VECTORS ? at.left : VECTORS;
        copy_ordered(pass, dimensions, pass->order + first, length, weight, block, store);
        at.left -= length;
        return at;
    }
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
        sums[i] += add_lanes(running[i]);
        running[i] = (Floats){0};
    }
}

/* Room of one thread. */
typedef struct {
    void *memory;
    Pair *soft, *levers;
    Floats *running;
} Room;

static int make_room(const VectorPass *pass, Room *room)
{
    const size_t clusters = (size_t)pass->palette.clusters;
    room->memory = calloc(clusters * (size_t)(4 + 1 + pass->dimensions) + 1, sizeof(Floats));
    /* Registers that lie across two lines of a cache take twice as long. */
    const uintptr_t aligned = ((uintptr_t)room->memory + sizeof(Floats) - 1) / sizeof(Floats) * sizeof(Floats);
    room->soft = (Pair *)aligned;
    room->levers = room->soft + clusters;
    room->running = (Floats *)(room->levers + clusters);
    return room->memory != NULL;
}

INLINE void look_up(const VectorPass *pass, int64_t dimensions, int64_t first, Pair *result)
{
    for (int lane = 0; lane < VECTORS && first + lane < pass->chunks * pass->row; lane++)
        for (int64_t d = 0; d < dimensions; d++)
            ((float *)(result + d))[lane] = pass->after[pass->indices[first + lane] * dimensions + d];
}

/* One kind of pass over a block, whose centroids are in `near`. Returns its least squared distances. */
INLINE Pair attend_block(const VectorPass *pass, PassKind kind, int64_t dimensions, const Room *room, int narrows,
                         const Pair *x, const Pair *carried, const Pair *there, Near *near, Pair *result)
{
    const Pair nearest = pay_block(&pass->palette, dimensions, narrows, x, there, near, room->soft);
    if (kind == SUM_UP)
        sum_up_block(pass, dimensions, near, carried, room->soft, room->running);
    else if (kind == EVALUATE)
        evaluate_block(pass, dimensions, near, room->soft, result);
    else
        react_block(pass, dimensions, near, x, kind == OUTPUT_GRADIENTS ? carried : NULL, room->soft, room->levers,
                    result, room->running);
    return nearest;
}

INLINE void pass_over_part(const VectorPass *pass, PassKind kind, int64_t dimensions, int64_t part, const Room *room)
{
    const int64_t count = pass->chunks * pass->row, clusters = pass->palette.clusters;
    const int64_t blocks = (count + VECTORS - 1) / VECTORS, start = VECTORS * (blocks * part / pass->parts);
    const int64_t words = (clusters + 63) / 64, size = clusters * (1 + dimensions);
    int64_t end = VECTORS * (blocks * (part + 1) / pass->parts), held = 0;
    end = end < count ? end : count;
    const int adds = kind == UPDATE_GRADIENTS, reacts = adds || kind == OUTPUT_GRADIENTS;
    const int stores = reacts || kind == EVALUATE || kind == LOOK_UP, loads = kind == SUM_UP || kind == OUTPUT_GRADIENTS;
    const int narrows = pass->near && pass->narrows;
    const float *table = reacts ? pass->share : pass->after;
    double *totals = pass->totals + part * (2 + dimensions);
    const int64_t together = pass->palette.precise ? FLUSH_OF_WIDE : FLUSH;
    Pair x[MOST_DIMENSIONS], carried[MOST_DIMENSIONS], result[MOST_DIMENSIONS], earlier[MOST_DIMENSIONS];
    Floats total[2 + MOST_DIMENSIONS];
    float floor[MOST_DIMENSIONS];
    Near near;
    all_are_near(clusters, &near);
    for (int64_t d = 0; d < 2 + dimensions; d++)
        total[d] = (Floats){0};
    for (int64_t d = 0; d < dimensions; d++) {
        x[d] = carried[d] = every(0);
        floor[d] = 0;
        for (int64_t k = 0; k < clusters && (kind == EVALUATE || reacts); k++)
            floor[d] += pass->floor * table[k * dimensions + d];
    }
    Cursor at = {start / pass->row, start % pass->row, end - start};
    for (int64_t i = start; i < end; i += VECTORS) {
        const int64_t length = end - i < VECTORS ? end - i : VECTORS;
        const Cursor here = at;
        at = copy_block(pass, dimensions, here, i, (float *)pass->weight, x, 0);
        const Pair there = who_is_there(pass, dimensions, x, length);
        Pair nearest = every(0);
        for (int64_t d = 0; d < dimensions; d++)
            result[d] = every(floor[d]);
        if (loads)
            copy_block(pass, dimensions, here, i, (float *)pass->carried, carried, 0);
        if (kind == ASSIGN) {
            int32_t indices[VECTORS];
            nearest = assign_block(pass, dimensions, x, &there, indices, room->running);
            for (int64_t lane = 0; lane < length; lane++)
                pass->indices[i + lane] = (uint8_t)indices[lane];
        } else if (kind == LOOK_UP)
            look_up(pass, dimensions, i, result);
        else {
            uint64_t *own = pass->near + i / VECTORS * words;
            if (narrows)
                all_are_near(clusters, &near);
            else if (pass->near)
                recall(own, clusters, &near);
            nearest = attend_block(pass, kind, dimensions, room, narrows, x, carried, &there, &near, result);
            if (narrows)
                note_down(&near, clusters, own);
        }
        if (adds)
            copy_block(pass, dimensions, here, i, pass->results, earlier, 0);
        for (int64_t d = 0; d < dimensions && stores; d++)
            for (int half = 0; half < 2; half++) {
                result[d].half[half] *= there.half[half];
                if (adds)
                    result[d].half[half] += earlier[d].half[half];
            }
        if (stores)
            copy_block(pass, dimensions, here, i, pass->results, result, 1);
        const Pair *summed = kind == SUM_UP ? carried : x;
        for (int half = 0; half < 2; half++) {
            total[0] += nearest.half[half] * there.half[half];
            total[1] += there.half[half];
            for (int64_t d = 0; d < dimensions; d++)
                total[2 + d] += summed[d].half[half] * there.half[half];
        }
        if (++held == together || i + VECTORS >= end) {
            flush(total, 2 + dimensions, totals);
            flush(room->running, size, pass->sums + part * size);
            held = 0;
        }
    }
}

INLINE void pass_over(VectorPass *pass, PassKind kind, int64_t dimensions)
{
    Room room;
    const int made = make_room(pass, &room);
    if (!made)
        pass->failed = 1;
    for (int64_t part = TAKE(&pass->next); part < pass->parts && made; part = TAKE(&pass->next))
        pass_over_part(pass, kind, dimensions, part, &room);
    free(room.memory);
}

/* Each kind for the usual numbers of dimensions, and for any. */
#define TASK(name, kind, dimensions) \
    FOR_PROCESSOR static void name(void *data) \
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

const VectorTasks VECTOR_TASKS = {ENTRIES(sum_up), ENTRIES(evaluate), ENTRIES(output),
                                  ENTRIES(update), ENTRIES(assign),   ENTRIES(look_up)};

#endif
