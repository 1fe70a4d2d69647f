"""The page in front of another server: any that OpenAI's clients can ask, as one more ChatModel."""
