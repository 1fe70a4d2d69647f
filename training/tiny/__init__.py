"""The bundled tiny models: small networks, their two training stages, and their export to the released formats."""
