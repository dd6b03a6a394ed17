/* Brings vectors of a weight that are near each other together, so that each block of them has few centroids that
matter: by the bits of their elements in turn (Morton's order, "A computer oriented geodetic data base", IBM 1966), tile
by tile, so that what a tile takes stays in a cache. */

#if defined(__GNUC__)

#include "vector_passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE 8192    /* Vectors that are sorted together. */
#define MOST_BITS 12 /* Of a key. */
#define SPAN 1.5f    /* Elements up to so many standard deviations from the mean are told apart. */

/* Vectors that lie in a row. */
typedef struct {
    int64_t first, offset, length;
} Run;

/* Room of one thread. */
typedef struct {
    Run runs[TILE];
    int32_t keys[TILE], counts[(1 << MOST_BITS) + 1];
} Room;

static int64_t runs_of(const VectorPass *pass, int64_t first, int64_t count, Run *runs)
{
    int64_t found = 0;
    for (int64_t done = 0; done < count;) {
        const int64_t chunk = (first + done) / pass->row, place = (first + done) % pass->row;
        const int64_t left = pass->row - place, length = left < count - done ? left : count - done;
        runs[found++] = (Run){done, chunk * pass->dimensions * pass->row + place, length};
        done += length;
    }
    return found;
}

INLINE void sort_tile(const VectorPass *pass, int64_t first, int64_t count, Room *room)
{
    Run *runs = room->runs;
    int32_t *keys = room->keys, *counts = room->counts;
    const int64_t found = runs_of(pass, first, count, runs), dimensions = pass->dimensions;
    const int64_t used = dimensions < MOST_BITS ? dimensions : MOST_BITS;
    const int bits = (int)(MOST_BITS / used), levels = 1 << bits;
    float sum = 0, squares = 0;
    for (int64_t r = 0; r < found; r++)
        for (int64_t d = 0; d < dimensions; d++) {
            const float *own = pass->weight + runs[r].offset + d * pass->row;
            for (int64_t i = 0; i < runs[r].length; i++) {
                sum += own[i];
                squares += own[i] * own[i];
            }
        }
    const float elements = (float)(count * dimensions), mean = sum / elements;
    const float variance = squares / elements - mean * mean;
    const float factor = variance > 0 ? levels / (2 * SPAN * sqrtf(variance)) : 0, most = levels - 0.5f;
    memset(keys, 0, sizeof room->keys);
    memset(counts, 0, sizeof room->counts);
    for (int64_t r = 0; r < found; r++)
        for (int64_t d = 0; d < used; d++) {
            const float *own = pass->weight + runs[r].offset + d * pass->row;
            int32_t *to = keys + runs[r].first;
            for (int64_t i = 0; i < runs[r].length; i++) {
                float level = (own[i] - mean) * factor + levels / 2;
                level = level > 0 ? level : 0;
                const int32_t whole = (int32_t)(level < most ? level : most);
                for (int bit = 0; bit < bits; bit++)
                    to[i] |= ((whole >> bit) & 1) << (bit * used + d);
            }
        }
    for (int64_t i = 0; i < count; i++)
        counts[keys[i] + 1]++;
    for (int64_t key = 0; key < 1 << MOST_BITS; key++)
        counts[key + 1] += counts[key];
    for (int64_t r = 0; r < found; r++)
        for (int64_t i = 0; i < runs[r].length; i++)
            pass->order[first + counts[keys[runs[r].first + i]]++] = (int32_t)(runs[r].offset + i);
}

FAST static void sort_tiles(void *data)
{
    VectorPass *pass = data;
    const int64_t count = pass->chunks * pass->row, tiles = (count + TILE - 1) / TILE;
    Room *room = malloc(sizeof *room);
    if (!room)
        pass->failed = 1;
    for (int64_t tile = TAKE(&pass->next); tile < tiles && room; tile = TAKE(&pass->next)) {
        const int64_t first = tile * TILE, left = count - first;
        sort_tile(pass, first, left < TILE ? left : TILE, room);
    }
    free(room);
}

int order_vectors(Fork fork, VectorPass *pass)
{
    pass->next = 0;
    run(fork, pass->parts, sort_tiles, pass);
    return (int)pass->failed;
}

#endif
