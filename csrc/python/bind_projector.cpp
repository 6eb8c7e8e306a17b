#include <functional>

#include "python/handles.h"

namespace dmr::python {
namespace {

std::unique_ptr<ProjectorHandle> load_projector(const std::string & path, const ModelHandle & model,
                                                int32_t num_threads, bool use_gpu, int32_t min_tokens,
                                                int32_t max_tokens, bool flash_attention) {
    const auto             shared = model.shared();
    const ProjectorOptions options{num_threads, use_gpu, min_tokens, max_tokens, flash_attention};
    py::gil_scoped_release released;
    return std::make_unique<ProjectorHandle>(Projector::load(path, shared, options));
}

std::vector<MediaPiece> prepare_image(const ProjectorHandle & handle, uint32_t width, uint32_t height,
                                      const py::bytes & pixels) {
    const auto             shared = handle.shared();
    const auto             copied = pixels.cast<std::string>();
    py::gil_scoped_release released;
    return shared->prepare_image(width, height, copied);
}

std::vector<MediaPiece> prepare_sound(const ProjectorHandle & handle, const py::bytes & file, int32_t max_seconds) {
    const auto             shared = handle.shared();
    const auto             copied = file.cast<std::string>();
    py::gil_scoped_release released;
    return shared->prepare_sound(copied, max_seconds);
}

std::shared_ptr<MediaVectors> encode(ProjectorHandle & handle, const MediaPiece & piece, const py::object & between) {
    const MediaPiece            mine = piece;
    const std::function<void()> call = [&between] {
        py::gil_scoped_acquire acquired;
        between();
    };
    py::gil_scoped_release released;
    return std::make_shared<MediaVectors>(handle.alone([&](Projector & projector) {
        return between.is_none() ? projector.encode(mine) : projector.encode(mine, call);
    }));
}

template <typename Result> auto getter(Result (Projector::*method)() const) {
    return [method](const ProjectorHandle & handle) { return ((*handle.shared()).*method)(); };
}

}  // namespace

void register_projector(py::module_ & module) {
    py::class_<MediaPiece>(module, "MediaPiece", "Tokens of text, or places that take the vectors of `encode`.")
        .def_readonly("tokens", &MediaPiece::tokens, "Empty for places.")
        .def_readonly("num_places", &MediaPiece::num_places, "KV cells that it takes; 0 for text.")
        .def_readonly("num_positions", &MediaPiece::num_positions, "By which what follows moves on.")
        .def("without_content", &without_content, "The same without what `encode` needs.")
        .def_readonly("is_causal", &MediaPiece::is_causal, "Else all places are computed in one go.");
    py::class_<MediaVectors, std::shared_ptr<MediaVectors>>(module, "MediaVectors", "One row for each place.")
        .def_readonly("num_places", &MediaVectors::num_places)
        .def_readonly("width", &MediaVectors::width)
        .def_property_readonly("num_bytes",
                               [](const MediaVectors & vectors) { return vectors.values.size() * sizeof(float); })
        .def(
            "values",
            [](const MediaVectors & vectors) {
                return py::array_t<float>({vectors.num_places, vectors.width}, vectors.values.data());
            },
            "A copy, float32 [num_places, width].");
    py::class_<ProjectorHandle>(module, "Projector", "An encoder of pictures and sounds beside a text model.")
        .def(py::init(&load_projector), py::arg("path"), py::arg("model"), py::kw_only(), py::arg("num_threads") = 1,
             py::arg("use_gpu") = true, py::arg("min_tokens") = -1, py::arg("max_tokens") = -1,
             py::arg("flash_attention") = true,
             "`min_tokens`, `max_tokens`: of one picture; -1 = as the file says. Raises LoadError.")
        .def_property_readonly("sees", getter(&Projector::sees))
        .def_property_readonly("hears", getter(&Projector::hears))
        .def_property_readonly("uses_mrope", getter(&Projector::uses_mrope))
        .def_property_readonly("sample_rate", getter(&Projector::sample_rate), "Hz; -1 = it does not hear.")
        .def("prepare_image", prepare_image, py::arg("width"), py::arg("height"), py::arg("pixels"),
             "Pieces of a prompt for RGB pixels. Any thread. Raises ValueError and MediaError.")
        .def("prepare_sound", prepare_sound, py::arg("file"), py::arg("max_seconds"),
             "Pieces of a prompt for a WAV, MP3 or FLAC file. Any thread. Raises MediaError.")
        .def("encode", encode, py::arg("piece"), py::arg("between") = py::none(),
             "`between` is called between slices, in which others may compute. Raises ValueError (text), Cancelled and "
             "DecodeError, and what `between` raises.")
        .def_property_readonly("next_encode", getter(&Projector::next_encode))
        .def(
            "abort", [](const ProjectorHandle & handle, int64_t encode) { handle.shared()->abort(encode); },
            py::arg("encode"), "Stops the encode with this number, also one that has not begun. Any thread.")
        .def("close", &ProjectorHandle::close, ReleaseGil());
}

}  // namespace dmr::python
