#pragma once
// The `probes:` section of a space file.

#include "src/study/space_reader.h"
#include "src/study/study.h"

namespace study {

// What is not there, or has an error, keeps its default; the errors are the reader's. Reads the quality suite
// too. Returns the node of probes.needle.lengths for check_needle_lengths(), nullptr where there is none.
const YamlNode* read_probes(SpaceReader& reader, const YamlNode& node, ProbeOptions& options);

// So would a chunk of the perplexity probe. `probes_at` is the section.
void check_context(SpaceReader& reader, const YamlNode& probes_at, const Study& study);

// A needle that does not fit the smallest context would count as a failure of that context.
void check_needle_lengths(SpaceReader& reader, const YamlNode* lengths_at, const Study& study);

}  // namespace study
