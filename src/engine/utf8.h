#pragma once
// The little UTF-8 that generation and the tokenizer need. Pure; any bytes are fine.

#include <cstddef>
#include <string_view>

namespace engine {

// Bytes of the character that starts with this byte: 1..4; 1 for a byte that cannot start one.
size_t utf8_length(unsigned char first);

// How many bytes at the end of the text begin a character that more bytes could complete: 0..3.
size_t incomplete_utf8_tail(std::string_view text);

// How many bytes from the start are whole, valid characters.
size_t valid_utf8_prefix(std::string_view text);
bool is_valid_utf8(std::string_view text);

}  // namespace engine
