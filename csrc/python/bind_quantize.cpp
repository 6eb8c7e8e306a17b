#include "core/quantize.h"

#include "python/module.h"

namespace dmr::python {

void register_quantize(py::module_ & module) {
    module.def("quantize", quantize, py::arg("source"), py::arg("target"), py::kw_only(), py::arg("file_type"),
               py::arg("num_threads"), py::arg("max_buffer_bytes"), ReleaseGil(),
               "Write a model's weights as one file of a smaller type; in a process of its own.");
}

}  // namespace dmr::python
