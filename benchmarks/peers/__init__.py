"""The strongest peers on a CPU, on the same weights: llama.cpp, CTranslate2, OpenVINO GenAI."""
