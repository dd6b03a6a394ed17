/* All scalars of a network in one call: small layers cost calls, not arithmetic, and are too small to be shared by threads.

Layers that are more than a thread's share are done by all threads together, the others each by one. A layer is cut into
the same parts either way, so that it comes to the same bits with whatever layers it is clustered. */

#include "scalars.h"

#include <stdlib.h>

typedef Status (*Work)(Fork fork, int64_t threads, Layer *layer);

/* Layers by size, the greatest first, those before `next` taken. */
typedef struct {
    int64_t next, count, threads;
    Layer **layers;
    Work work;
} Queue;

static int by_size(const void *one, const void *other)
{
    const Layer *first = *(Layer *const *)one, *second = *(Layer *const *)other;
    const int64_t difference = second->groups * second->count - first->groups * first->count;
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

static void take_layers(void *data)
{
    Queue *queue = data;
    for (int64_t index = TAKE(&queue->next); index < queue->count; index = TAKE(&queue->next))
        queue->layers[index]->status = queue->work(NULL, queue->threads, queue->layers[index]);
}

/* Does a work for every layer. Each has its own status; the greatest is the result. */
static int for_all(Fork fork, int64_t threads, int64_t count, Layer *layers, Work work)
{
    Layer **ordered = malloc((size_t)count * sizeof(Layer *));
    int64_t left = 0;
    Status worst = DONE;
    if (!ordered)
        return NO_MEMORY;
    for (int64_t i = 0; i < count; i++) {
        ordered[i] = layers + i;
        left += layers[i].groups * layers[i].count;
    }
    qsort(ordered, (size_t)count, sizeof(Layer *), by_size);
    int64_t first = 0;
    for (; first < count && ordered[first]->groups * ordered[first]->count * threads > left; first++) {
        ordered[first]->status = work(fork, threads, ordered[first]);
        left -= ordered[first]->groups * ordered[first]->count;
    }
    Queue queue = {first, count, threads, ordered, work};
    const int64_t least = left / LEAST_WEIGHTS + 1;
    run(fork, threads < least ? threads : least, take_layers, &queue);
    free(ordered);
    for (int64_t i = 0; i < count; i++)
        worst = layers[i].status > (int64_t)worst ? (Status)layers[i].status : worst;
    return (int)worst;
}

/* Clusters every layer softly. */
EXPORT int cluster_scalars(Fork fork, int64_t threads, int64_t count, Layer *layers)
{
    return for_all(fork, threads, count, layers, cluster_layer);
}

/* Derivatives of a loss by the weight and the first palettes of every layer, from those by what `cluster_scalars` returned. */
EXPORT int differentiate_scalars(Fork fork, int64_t threads, int64_t count, Layer *layers)
{
    return for_all(fork, threads, count, layers, differentiate_layer);
}
