/* Computing while data moves: each layer's gradients are reduced as soon as they are there, while the next layer's are
 * still being computed, and nobody waits before all are under way. */
#include <roundel.h>
#include <stdio.h>
#include <stdlib.h>

#define LAYERS 8
#define COUNT (1 << 18)

static float gradients[LAYERS][COUNT];

static void check(roundel_result_t result) {
    if (result != ROUNDEL_SUCCESS) {
        fprintf(stderr, "%s\n", roundel_last_error());
        exit(1);
    }
}

/* Stands for the backward pass of one layer. */
static void compute(float *layer, int number, int rank) {
    for (int i = 0; i < COUNT; i++) {
        layer[i] = (float)(number + rank * (i % 2));
    }
}

int main(void) {
    roundel_comm_t comm;
    roundel_work_t works[LAYERS];
    int32_t rank, world;
    check(roundel_init(&comm, NULL));
    check(roundel_comm_rank(comm, &rank));
    check(roundel_comm_world(comm, &world));

    int early = 0;
    for (int layer = LAYERS - 1; layer >= 0; layer--) {
        compute(gradients[layer], layer, rank);
        float *data = gradients[layer];
        check(roundel_all_reduce_async(data, data, COUNT, ROUNDEL_FLOAT32, ROUNDEL_AVG, comm, &works[layer]));
    }
    for (int layer = 0; layer < LAYERS; layer++) {
        early += roundel_work_test(works[layer]) == ROUNDEL_SUCCESS;
    }
    for (int layer = 0; layer < LAYERS; layer++) {
        check(roundel_work_wait(works[layer]));
        check(roundel_work_free(works[layer]));
        float want = (float)layer + (float)(world - 1) / 2;
        if (gradients[layer][0] != (float)layer || gradients[layer][1] != want) {
            fprintf(stderr, "layer %d: %g instead of %g\n", layer, gradients[layer][1], want);
            return 1;
        }
    }
    printf("rank %d of %d: %d layers averaged, %d of them before anybody waited\n", rank, world, LAYERS, early);

    check(roundel_comm_destroy(comm));
    return 0;
}
