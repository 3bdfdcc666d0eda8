#pragma once
// How each family of chat templates writes the turns of a conversation, one after another: what its template
// prints for the messages alone, before the assistant's next turn is opened. Pure.

#include <string>
#include <vector>

#include "src/engine/chat.h"

namespace engine {

void chatml_turns(const std::vector<ChatMessage>& messages, std::string& out);
void qwen25_turns(const std::vector<ChatMessage>& messages, std::string& out);
void qwen2_turns(const std::vector<ChatMessage>& messages, std::string& out);
void qwen3_turns(const std::vector<ChatMessage>& messages, std::string& out);
void qwq_turns(const std::vector<ChatMessage>& messages, std::string& out);
void minimax_m2_turns(const std::vector<ChatMessage>& messages, std::string& out);
void llama3_turns(const std::vector<ChatMessage>& messages, std::string& out);
void llama31_turns(const std::vector<ChatMessage>& messages, std::string& out);
void gemma_turns(const std::vector<ChatMessage>& messages, std::string& out);
void gemma3_turns(const std::vector<ChatMessage>& messages, std::string& out);
void deepseek_turns(const std::vector<ChatMessage>& messages, std::string& out);
void deepseek_v31_turns(const std::vector<ChatMessage>& messages, std::string& out);
void deepseek_v31_llama_cpp_turns(const std::vector<ChatMessage>& messages, std::string& out);
void deepseek_v2_turns(const std::vector<ChatMessage>& messages, std::string& out);
void mistral_nemo_turns(const std::vector<ChatMessage>& messages, std::string& out);
void mistral_v3_turns(const std::vector<ChatMessage>& messages, std::string& out);
void mistral_v7_turns(const std::vector<ChatMessage>& messages, std::string& out);
void mistral_v7_tekken_turns(const std::vector<ChatMessage>& messages, std::string& out);

}  // namespace engine
