// The Python-side names of the core's objects.
#pragma once

#include "core/context.h"
#include "core/detokenizer.h"
#include "core/model.h"
#include "core/projector.h"
#include "core/sampler.h"
#include "core/thread_pool.h"
#include "python/module.h"

namespace dmr::python {

using ModelHandle       = Handle<Model>;
using ContextHandle     = Handle<Context>;
using SamplerHandle     = Handle<Sampler>;
using DetokenizerHandle = Handle<Detokenizer>;
using ThreadPoolHandle  = Handle<ThreadPool>;
using ProjectorHandle   = Handle<Projector>;

}  // namespace dmr::python
